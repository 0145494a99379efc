"""Operations by the formula, against those that torch counts while a model runs."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import make_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.policy.flops import Passes, work_of

ROWS, LENGTH = 3, 24
ALL = Passes(ROWS * LENGTH, ROWS * LENGTH, ROWS * LENGTH**2)
"""Of a padded batch without a mask: eager attention computes the upper triangle too."""
SIZES: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "pad_token_id": 0,
}


def counted(model: Any, *, backward: bool) -> int:
    ids = torch.randint(1, 50, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        logits = model(input_ids=ids, use_cache=False).logits
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("settings", [{"model_type": "qwen3"}, {"model_type": "llama", "tie_word_embeddings": True}])
@pytest.mark.parametrize("backward", [False, True])
def test_dense_models(settings, backward):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**SIZES | settings), attn_implementation="eager")
    work = work_of(model)
    expected = counted(model, backward=backward)
    assert (work.update if backward else work.forward)(ALL) == pytest.approx(expected, rel=0.005)


def test_experts_count_as_far_as_a_token_visits_them():
    moe = {"model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
    config = AutoConfig.for_model(**SIZES | moe)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", experts_implementation="eager")
    assert work_of(model).forward(ALL) == pytest.approx(counted(model, backward=False), rel=0.005)


def test_frozen_weights_need_no_gradient(tmp_path):
    path = make_model(tmp_path / "model", width=128)
    args = PolicyArgs(path=str(path), attn_implementation="eager", lora=LoraArgs(rank=1, alpha=1))
    policy = Policy.load(args, trainable=True)
    work = work_of(policy.model)
    assert not work.trains_weights
    assert work.update(ALL) == pytest.approx(counted(policy.model, backward=True), rel=0.05)  # adapters and all
    in_full = replace(work, trains_weights=True).update(ALL)
    assert in_full > 1.2 * work.update(ALL)


def test_packed_weights_count_as_what_they_stand_for(tmp_path):
    path = make_model(tmp_path / "model", width=128)
    whole, packed = (
        work_of(Policy.load(PolicyArgs(path=str(path), quantization=quantization), trainable=False).model)
        for quantization in ("none", "4bit")
    )
    assert packed == whole


def test_a_published_size():
    """Qwen3-8B: 8.19 B parameters, 6.95 B without embeddings [model card], 622 M of them in each of two tables."""
    config = AutoConfig.for_model(
        "qwen3",
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        work = work_of(AutoModelForCausalLM.from_config(config))
    assert work.weights == pytest.approx(6.95e9, rel=0.001)
    assert work.head == 151936 * 4096
    assert work.queries == 36 * 4096
    assert work.update(Passes(1, 1, 0)) == 6 * (work.weights + work.head)


def test_passes_by_hand():
    """Two prompts of 3 and 1 tokens; the first has answers of 2 and 1, the second of 4."""
    passes = Passes.over([3, 1], [(3, 2), (3, 1), (1, 4)])
    look_at = [1 + 2 + 3, 1, 4 + 5, 4, 2 + 3 + 4 + 5]
    assert passes == Passes(tokens=11, predicted=7, attended=sum(look_at))
