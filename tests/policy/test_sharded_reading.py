"""When ranks read shards of a model, and why they do not; `tests/distributed/test_read_shards.py` has them read."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import make_model
from transformers import PreTrainedModel
from transformers.core_model_loading import Chunk, Concatenate, MergeModulelist, WeightConverter

from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.policy.sharded_reading import UnreadWeights, load_unread, why_read_whole

RANKS = 2


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def unread(model: Path) -> tuple[PreTrainedModel, UnreadWeights]:
    result = load_unread(PolicyArgs(path=str(model)), trainable=False, flag="policy", ranks=RANKS)
    assert result is not None
    return result


def test_nothing_is_read_and_loading_is_as_before_after_it(model):
    outline, weights = unread(model)
    assert all(p.is_meta for p in outline.parameters())
    assert [Path(file).name for file in weights.files] == ["model.safetensors"]
    assert not any(p.is_meta for p in Policy.load(PolicyArgs(path=str(model)), trainable=False).parameters())


def test_adapters_are_those_of_one_process(model):
    args = PolicyArgs(path=str(model), lora=LoraArgs(rank=4, alpha=8))
    policies = []
    for ranks in (1, RANKS):
        torch.manual_seed(5)
        policies.append(dict(Policy.load(args, trainable=True, ranks=ranks).named_parameters()))
    assert policies[0].keys() == policies[1].keys()
    for name, expected in policies[0].items():
        assert policies[1][name].requires_grad == expected.requires_grad == (".lora_" in name)
        assert policies[1][name].is_meta if ".lora_" not in name else torch.equal(policies[1][name], expected)


def _lacks(weights: dict[str, torch.Tensor]) -> None:
    del weights["model.norm.weight"]


def _longer(weights: dict[str, torch.Tensor]) -> None:
    weights["model.norm.weight"] = torch.ones(33)


def _twice(weights: dict[str, torch.Tensor]) -> None:
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_lacks, "its files lack model.norm.weight"),
        (_longer, "model.norm.weight has another shape than its config says"),
        (_twice, "its files hold lm_head.weight, which is tied to another weight"),
    ],
)
def test_files_that_shards_cannot_be_read_from(
    change: Callable[[dict[str, torch.Tensor]], None], reason, model, caplog
):
    weights = load_file(model / "model.safetensors")
    change(weights)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with caplog.at_level(logging.INFO):
        assert load_unread(PolicyArgs(path=str(model)), trainable=False, flag="policy", ranks=RANKS) is None
    message = f"--policy: every rank reads the whole model before it is sharded, since {reason}."
    assert [record.getMessage() for record in caplog.records].count(message) == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"path": "", "config": {"model_type": "qwen3"}}, "made at random"),
        ({"quantization": "4bit", "lora": LoraArgs()}, "quantised while it is read"),
    ],
)
def test_models_of_which_no_shards_are_stored(options, reason, model, caplog):
    args = replace(PolicyArgs(path=str(model)), **options)
    with caplog.at_level(logging.INFO):
        assert load_unread(args, trainable=True, flag="policy", ranks=RANKS) is None
    assert reason in caplog.text


@pytest.mark.parametrize(
    ("sources", "targets", "operations", "stacks"),
    [
        # Rows of a shard are not rows of what they are cut into, joined or turned to.
        (["self_attn.q_proj"], ["self_attn.q_proj", "self_attn.k_proj"], [Chunk(dim=0)], False),
        (["self_attn.q_proj"], ["self_attn.q_proj"], [Concatenate(dim=0)], False),
        (["self_attn.q_proj"], ["self_attn.q_proj"], [MergeModulelist(dim=0), Concatenate(dim=1)], True),
    ],
)
def test_conversions(sources, targets, operations, stacks, model):
    outline, weights = unread(model)
    converter = WeightConverter(source_patterns=sources, target_patterns=targets, operations=operations)
    mapping = [*(weights.options.weight_mapping or []), converter]
    weights = replace(weights, options=replace(weights.options, weight_mapping=mapping))
    expected = None if stacks else "model.layers.0.self_attn.q_proj.weight is converted"
    assert why_read_whole(outline, weights, RANKS) == expected


def test_a_type_that_some_weights_keep(model):
    outline, weights = unread(model)
    weights = replace(weights, options=replace(weights.options, dtype_plan={"norm": torch.bfloat16}))
    assert why_read_whole(outline, weights, RANKS) == "some of its weights are kept in another type"
