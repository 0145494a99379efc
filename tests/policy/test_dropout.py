"""Without dropout, a forward pass in training mode is one in evaluation mode, wherever an architecture keeps its rates."""

import copy
import json
from typing import Any

import pytest
import torch
from tiny import make_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from lit_uniopd.policy import LoraArgs, PolicyArgs
from lit_uniopd.policy.dropout import stored_configs, switch_off_dropout
from lit_uniopd.policy.policy import Policy

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
QWEN = {"num_key_value_heads": 2, "head_dim": 8}
RATES: dict[str, dict[str, Any]] = {
    "gpt2": {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3},
    "gptj": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.3, "rotary_dim": 4},  # read from its config
    "gpt_neox": {"attention_dropout": 0.3, "hidden_dropout": 0.3},
    "falcon": {"attention_dropout": 0.3, "hidden_dropout": 0.3},
    "persimmon": {"attention_dropout": 0.3, "hidden_dropout": 0.0},
    "opt": {"dropout": 0.3, "attention_dropout": 0.3, "layerdrop": 0.5, "ffn_dim": 64, "word_embed_proj_dim": 32},
    "seed_oss": {"attention_dropout": 0.3, "residual_dropout": 0.3, **QWEN},
    "qwen3": {"attention_dropout": 0.3, **QWEN},
    "mixtral": {"router_jitter_noise": 0.3, "num_local_experts": 4, "num_key_value_heads": 2},
}


def logits(model: Any) -> torch.Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        return model(input_ids=torch.arange(4, 24)[None], use_cache=False).logits


@pytest.mark.parametrize("kind", RATES)
def test_training_and_answering_are_one(kind):
    config = AutoConfig.for_model(kind, **SIZES, **RATES[kind])
    before = copy.deepcopy(config.to_dict())
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config)
    expected = logits(model.eval())
    assert not torch.allclose(logits(model.train()), expected, atol=1e-4)
    rates = switch_off_dropout(model)
    assert torch.equal(logits(model), expected)
    assert model.training
    assert {entry.rate for entry in rates} <= {0.1, 0.3, 0.5}  # 0.1: GPT-2's head for summaries
    assert switch_off_dropout(model) == []
    with stored_configs(rates):
        assert model.config.to_dict() == before
    assert torch.equal(logits(model), expected)


def test_what_has_none_is_left_alone():
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **SIZES, **QWEN))
    assert switch_off_dropout(model) == []


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")  # peft finds out by itself
def test_adapters_lose_theirs_and_exports_keep_the_rates(model_dirs, tmp_path):
    config = {"model_type": "gpt2", **SIZES, **RATES["gpt2"], "vocab_size": len(make_tokenizer())}
    lora = LoraArgs(rank=4, alpha=8, dropout=0.5)
    args = PolicyArgs(config=config, tokenizer=model_dirs["student"], lora=lora)
    policy = Policy.load(args, trainable=True)
    policy.switch_off_dropout()
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    assert torch.equal(logits(policy.train().model), logits(policy.eval().model))
    assert 0.5 in {entry.rate for entry in policy.dropout_off}
    policy.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["resid_pdrop"] == 0.3
    noisy = Policy.load(args, trainable=True)
    assert noisy.dropout_off == []
    assert not torch.equal(logits(noisy.train().model), logits(noisy.eval().model))
