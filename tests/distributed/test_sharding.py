"""A sharded policy whose layers are whole one at a time."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from lit_uniopd.distributed.sharding import ShardingArgs, can_gather_in_turn, has_shards, shard
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.policy.backbone import layers_of, unwrap
from lit_uniopd.policy.checkpoint_names import checkpoint_weights
from lit_uniopd.sampling import ColocateArgs, SamplingArgs
from lit_uniopd.sampling.engine_vllm_colocated import _engine_options
from lit_uniopd.sampling.weight_sync import fingerprint


@pytest.fixture
def mesh(tmp_path: Path) -> Any:
    """Of one rank: weights are sharded all the same."""
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/ranks", rank=0, world_size=1)
    return init_device_mesh("cpu", (1,))


@pytest.mark.parametrize("lora", [None, LoraArgs(rank=4, alpha=8)])
def test_weights_in_turn_are_those_of_one_process(model_dirs, mesh, lora):
    policy = Policy.load(PolicyArgs(path=model_dirs["student"], lora=lora), trainable=True)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    base, layers = unwrap(policy.model), layers_of(policy.model)
    expected = {name: weight.clone() for name, weight in checkpoint_weights(base)}
    shard(policy, layers, mesh, ShardingArgs())
    assert can_gather_in_turn(policy)
    whole, sent = [], {}

    def send() -> None:
        for name, weight in checkpoint_weights(base):
            whole.append(sum(not has_shards(layer) for layer in layers))
            sent[name] = weight.clone()

    policy.layer_by_layer(send)
    assert sent.keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in sent.items())
    assert max(whole) == 1 < len(layers)
    assert all(isinstance(parameter, DTensor) for parameter in policy.parameters())
    before = fingerprint(policy.named_parameters())
    with torch.no_grad():
        next(iter(layers[1].parameters())).mul_(2)
    assert fingerprint(policy.named_parameters()) != before


def test_an_engine_has_the_type_that_weights_are_gathered_in(model_dirs, mesh):
    """Whoever asks before they are gathered (``engine: auto``) gets the same engine as the rollout."""
    policy = Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=True)
    base, args = unwrap(policy.model), SamplingArgs(engine="vllm", colocate=ColocateArgs())
    shard(policy, layers_of(policy.model), mesh, ShardingArgs(param_dtype="bfloat16"))
    before = _engine_options(base, args, torch.device("cpu"))
    with policy.gathered():
        assert _engine_options(base, args, torch.device("cpu")) == before
    assert before["dtype"] == "bfloat16"
    assert policy.layer_by_layer(lambda: {weight.dtype for _, weight in checkpoint_weights(base)}) == {torch.bfloat16}
