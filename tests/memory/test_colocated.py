"""vLLM in the trainer's process has weights and a cache of its own."""

from functools import partial
from typing import Any

import pytest
from tiny import adam

from lit_uniopd.memory import Setup, Workload, check_fits, plan_memory
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.sampling import ColocateArgs, SamplingArgs

WEIGHTS = 61 * 32 + 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32 + 2 * 8) + 32
"""Numbers of the tiny student, by hand: embedding; q and o, k and v, the MLP, norms; the last norm. Heads are tied."""


def entries(path: str, sampling: SamplingArgs, **options: Any) -> dict[str, tuple[int, str]]:
    cuda = options.get("cuda", False)
    of = partial(Workload.of_rollouts, answers=8, longest_prompt=10, micro_batch_tokens=100, cuda=cuda)
    plan = plan_memory(Setup(PolicyArgs(path=path), "model.student", adam, of(sampling, here=True), **options))
    return {a.name: (a.bytes, a.phase) for a in plan.allocations}


@pytest.mark.parametrize(("cuda", "held"), [(False, "always"), (True, "rollout")])
def test_it_is_counted_where_it_is_held(model_dirs, cuda, held):
    sampling = SamplingArgs(n=4, max_new_tokens=6, engine="vllm", colocate=ColocateArgs(kv_cache_gib=0.5))
    parts = entries(model_dirs["student"], sampling, cuda=cuda)
    assert parts["vLLM: weights"] == (4 * WEIGHTS, held)
    assert parts["vLLM: keys and values"] == (2**29, held)
    assert not any(name.startswith("KV cache") for name in parts)


def test_its_weights_are_of_the_type_that_the_student_computes_in(model_dirs):
    sampling = SamplingArgs(n=4, max_new_tokens=6, engine="vllm")
    parts = entries(model_dirs["student"], sampling, precision="bf16-true")
    assert parts["vLLM: weights"][0] == 2 * WEIGHTS
    assert parts["vLLM: keys and values"][0] == 2**30


def test_on_a_gpu_its_share_bounds_the_cache(model_dirs):
    sampling = SamplingArgs(n=4, max_new_tokens=6, engine="vllm", colocate=ColocateArgs(gpu_memory_utilization=0.25))
    parts = entries(model_dirs["student"], sampling, cuda=True, device_bytes=2**20)
    assert parts["vLLM: weights"][0] + parts["vLLM: keys and values"][0] == 2**18


def test_a_smaller_share_is_named_where_that_is_what_does_not_fit(model_dirs):
    sampling = SamplingArgs(n=4, max_new_tokens=6, engine="vllm", colocate=ColocateArgs(gpu_memory_utilization=0.9))
    of = partial(Workload.of_rollouts, answers=8, longest_prompt=10, micro_batch_tokens=100, cuda=True)
    facts = {"cuda": True, "device_bytes": 8 * 2**20}
    policy = PolicyArgs(path=model_dirs["student"])
    setup = Setup(policy, "model.student", adam, of(sampling, here=True), **facts)
    warning = check_fits(setup, plan_memory(setup), 6 * 2**20, "cuda:0")
    assert warning is not None
    share = float(warning.split("gpu_memory_utilization ")[1].split()[0])
    smaller = SamplingArgs(n=4, max_new_tokens=6, engine="vllm", colocate=ColocateArgs(gpu_memory_utilization=share))
    applied = Setup(policy, "model.student", adam, of(smaller, here=True), **facts)
    assert plan_memory(applied).total <= 6 * 2**20


def test_the_loop_has_none(model_dirs):
    parts = entries(model_dirs["student"], SamplingArgs(n=4, max_new_tokens=6))
    assert not any(name.startswith("vLLM") for name in parts)


def test_pictures_need_room_for_their_features_and_one_layer_of_the_encoder():
    """By hand: 4 patches to a token, of 64 numbers and an MLP of 96; features of 32; 2 prompts of 10 tokens."""
    config: dict[str, Any] = {
        "model_type": "qwen2_5_vl",
        "text_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
        "vision_config": {
            "depth": 1,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_heads": 2,
            "out_hidden_size": 32,
        },
    }
    sampling = SamplingArgs(n=4, max_new_tokens=6, engine="vllm")
    load = Workload.of_rollouts(sampling, answers=8, longest_prompt=10, micro_batch_tokens=100, here=True, cuda=False)
    plan = plan_memory(Setup(PolicyArgs(config=config), "model.student", adam, load))
    (encoder,) = (each for each in plan.allocations if each.name == "vLLM: picture encoder")
    assert encoder.bytes == 20 * (4 * (3 * 96 + 4 * 64) + 32) * 4
