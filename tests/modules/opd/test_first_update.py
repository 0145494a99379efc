"""The first update of a rollout is on-policy: its log-probs are those of the rollout, also with a student that has dropout."""

import json
import logging
import math
from typing import Any

import pytest
from pairs_data import ROWS, data
from tiny import Memory, Prompts, adam, make_tokenizer, module, prompts, trainer

from lit_uniopd.modules import OmniDPO, PairLossArgs
from lit_uniopd.policy import LoraArgs, PolicyArgs

GPT2 = {
    **{"model_type": "gpt2", "vocab_size": len(make_tokenizer()), "n_embd": 32, "n_layer": 2, "n_head": 4},
    **{"n_positions": 256, "initializer_range": 0.3, "resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3},
}
GPT2 |= {"bos_token_id": 1, "eos_token_id": 2}


def students(path: str) -> dict[str, PolicyArgs]:
    return {
        "gpt2": PolicyArgs(config=GPT2, tokenizer=path),
        "lora": PolicyArgs(path=path, lora=LoraArgs(rank=4, alpha=8, dropout=0.5)),
        "gpt2 lora": PolicyArgs(config=GPT2, tokenizer=path, lora=LoraArgs(rank=4, alpha=8, dropout=0.5)),
        "checkpointing": PolicyArgs(config=GPT2, tokenizer=path, gradient_checkpointing=True),
    }


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")  # peft finds out by itself
@pytest.mark.parametrize("kind", ["gpt2", "lora", "gpt2 lora", "checkpointing"])
@pytest.mark.thinned(2)
def test_nothing_is_clipped_at_the_first_update(model_dirs, tmp_path, caplog, kind):
    memory = Memory()
    model = module(model_dirs, student=students(model_dirs["student"])[kind], optimizer=adam)
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, max_epochs=2, logger=memory).fit(model, Prompts(prompts(4)))
    # Two rollouts, so that adapters are not 0 any more.
    assert (memory.values["train/clip_fraction"], model.global_step) == (0, 2)
    assert memory.values["train/logp_drift"] < 1e-5
    assert caplog.text.count("is trained without its dropout (up to 0.") == 1


def test_before_its_first_step_a_preference_policy_is_its_reference(model_dirs, tmp_path):
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    memory: Any = Memory()
    policy = students(model_dirs["student"])["gpt2"]
    model = OmniDPO(policy, loss=PairLossArgs(kind="dpo", beta=0.1), optimizer=adam, seed=1)
    trainer(tmp_path, max_steps=1, logger=memory).fit(model, data(tmp_path / "pairs.jsonl"))
    assert memory.values["train/loss"] == pytest.approx(math.log(2), abs=1e-6)
