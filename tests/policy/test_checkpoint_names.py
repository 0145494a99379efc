"""Weights on their way to another program have the names and shapes of the files that ``save_pretrained`` writes."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3MoeConfig

from lit_uniopd.distributed.sharding import layer_of, weights_in_turn
from lit_uniopd.policy.backbone import unwrap
from lit_uniopd.policy.checkpoint_names import checkpoint_weights

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 11,  # so that 10 comes behind 9
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
CONFIGS = {
    "dense": Qwen3Config(**SIZES, tie_word_embeddings=False),
    "experts": Qwen3MoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_they_are_those_of_the_saved_files(kind, tmp_path):
    model = AutoModelForCausalLM.from_config(CONFIGS[kind])
    model.save_pretrained(tmp_path)
    saved, sent = load_file(tmp_path / "model.safetensors"), list(checkpoint_weights(model))
    assert len(sent) == len(saved)
    for name, weight in sent:
        assert torch.equal(weight, saved[name]), name
    layers = [layer for name, _ in sent if (layer := layer_of(name))]
    assert layers == sorted(layers, key=lambda layer: int(layer.rpartition(".")[2]))  # whole layers, one by one


def test_adapters_are_merged(tmp_path):
    model: Any = get_peft_model(
        AutoModelForCausalLM.from_config(CONFIGS["dense"]), LoraConfig(r=2, target_modules=["q_proj", "down_proj"])
    )
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    sent = dict(checkpoint_weights(unwrap(model)))
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert sent.keys() == saved.keys()
    for name, weight in sent.items():
        torch.testing.assert_close(weight, saved[name])


def test_numbers_that_name_no_module_are_no_layers():
    """Parameters in a list, heads under a name with a number in it, lists inside of layers, buffers."""
    inner = nn.ModuleDict({"experts": nn.ModuleList([nn.Linear(2, 2, bias=False) for _ in range(2)])})
    parts = {"scales": nn.ParameterList([torch.ones(2), torch.zeros(1)]), "layers": nn.ModuleList([inner])}
    model = nn.ModuleDict({**parts, "norm": nn.BatchNorm1d(2)})
    weights = list(weights_in_turn(model))
    assert {name: w.tolist() for part in weights for name, w in part.items()} == {
        name: w.tolist() for name, w in model.state_dict().items()
    }
    assert [list(part) for part in weights[:2]] == [
        ["scales.0", "scales.1"],
        ["layers.0.experts.0.weight", "layers.0.experts.1.weight"],
    ]
