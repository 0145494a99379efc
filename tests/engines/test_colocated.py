"""vLLM in the trainer's process writes what the loop writes, from the weights of every step."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from engines.comparisons import PROMPTS, ROOM, Drifts, change, load, on_policy, same, with_log_probs_of
from tiny import Prompts, module, prompts, trainer

from lit_uniopd.errors import UserError
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.sampling import ColocateArgs, Completions, SamplingArgs, engine_vllm_colocated, sample


def write(
    model: Any, engine: Any, eos_ids: tuple[int, ...] = (), prompt_tokens: Any = PROMPTS, **options: Any
) -> Completions:
    keys, first = options.pop("keys", None), options.pop("first", 0)
    room = {"colocate": ROOM} if engine == "vllm" else {}
    args = SamplingArgs(**{"n": 1, "max_new_tokens": 24, **room} | options, engine=engine)
    return sample(model, prompt_tokens, args, eos_ids=eos_ids, pad_id=0, seed=3, keys=keys, first=first)


@pytest.mark.parametrize("tied", [True, False])
def test_the_most_probable_answers_are_those_of_the_loop_after_every_change(tiny_dirs, untied, tied):
    model = load(tiny_dirs["student"]) if tied else untied
    answers = []
    for step in range(4):
        same(write(model, "vllm", temperature=0), loop := write(model, "loop", temperature=0))
        answers.append(loop.tokens_BT)
        change(model, step)
    assert not any(torch.equal(answers[0], other) for other in answers[1:])


def test_adapters_are_merged_on_the_way(tiny_dirs):
    policy = Policy.load(PolicyArgs(path=tiny_dirs["student"], lora=LoraArgs(rank=4, alpha=8)), trainable=True).eval()
    answers = []
    for step in range(2):
        loop = write(policy.model, "loop", temperature=0)
        same(write(policy.model, "vllm", temperature=0), loop)
        answers.append(loop.tokens_BT)
        with torch.no_grad():
            for name, parameter in policy.model.named_parameters():
                if "lora_" in name:
                    parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)) * 0.2)
    assert not torch.equal(*answers)


def test_answers_end_where_the_loops_do(tiny_dirs):
    model = load(tiny_dirs["student"])
    unended = write(model, "loop", temperature=0)
    ends = (int(unended.tokens_BT[0, 4]), int(unended.tokens_BT[1, 9]))
    vllm = write(model, "vllm", ends, temperature=0)
    same(vllm, write(model, "loop", ends, temperature=0))
    assert vllm.finish[:2] == ["stop", "stop"]
    assert int(vllm.mask_BT[0].sum()) <= 5


def test_log_probs_are_those_at_the_temperature(tiny_dirs):
    """Of the model itself, by transformers alone."""
    model = load(tiny_dirs["student"])
    answers = write(model, "vllm", n=3, temperature=0.7)
    with_log_probs_of(model, answers, temperature=0.7)


def test_draws_depend_on_seed_and_key_alone(tiny_dirs):
    model = load(tiny_dirs["student"])
    first = write(model, "vllm", n=4)
    assert torch.equal(first.tokens_BT, write(model, "vllm", n=4).tokens_BT)
    assert len({tuple(row.tolist()) for row in first.tokens_BT}) == 12
    turned = write(model, "vllm", n=4, prompt_tokens=PROMPTS[::-1], keys=[2, 1, 0])
    assert torch.equal(turned.tokens_BT[8:], first.tokens_BT[:4])
    part = write(model, "vllm", n=2, first=2)  # vLLM counts on from a prompt's seed, and so do parts of its answers
    assert torch.equal(part.tokens_BT, first.tokens_BT[[2, 3, 6, 7, 10, 11]])
    other = write(model, "vllm", n=4, keys=[7, 8, 9])
    assert not torch.equal(other.tokens_BT, first.tokens_BT)


def process_states() -> tuple[Any, ...]:
    numpy_state: Any = np.random.get_state()
    return random.getstate(), numpy_state[1].tolist(), torch.get_rng_state().tolist()


def test_the_process_is_left_as_it_was(tiny_dirs):
    model = load(tiny_dirs["student"])
    states = process_states()
    threads, setter, dtype = torch.get_num_threads(), torch.set_num_threads, torch.get_default_dtype()
    write(model, "vllm")
    assert states == process_states()
    assert (threads, setter, dtype) == (torch.get_num_threads(), torch.set_num_threads, torch.get_default_dtype())


# --- what must not pass in silence ---


def test_an_engine_that_keeps_old_weights_is_an_error(tiny_dirs, monkeypatch):
    model = load(tiny_dirs["student"])
    write(model, "vllm")
    old = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    monkeypatch.setattr(engine_vllm_colocated, "checkpoint_weights", lambda _: iter(old.items()))
    change(model, 1)
    with pytest.raises(
        UserError, match=r"^vLLM in this process kept old weights: .*; set sampling\.engine=loop, or start"
    ):
        write(model, "vllm")


def test_an_engine_of_another_model_is_an_error(tiny_dirs, monkeypatch):
    earlier, model, other = load(tiny_dirs["student"]), load(tiny_dirs["student"]), load(tiny_dirs["math"])
    write(earlier, "vllm")
    change(model, 2)
    monkeypatch.setattr(engine_vllm_colocated, "checkpoint_weights", lambda _: iter(other.state_dict().items()))
    with pytest.raises(
        UserError, match=r"^vLLM in this process is \d+\.\d\d nats .*max_drift 0\.2: it has other weights"
    ):
        write(model, "vllm")
    monkeypatch.undo()
    same(write(earlier, "vllm", temperature=0), write(earlier, "loop", temperature=0))  # no longer what the engine has


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 125}, r"max_new_tokens=125 does not fit: the engine has room for 128 tokens and .* prompt"),
        ({"colocate": ColocateArgs(kv_cache_gib=500)}, r"^vLLM cannot run Qwen3ForCausalLM in this process \(.*cache"),
    ],
)
def test_what_has_no_room_is_refused(tiny_dirs, options, message):
    with pytest.raises(UserError, match=message):
        write(load(tiny_dirs["student"]), "vllm", **options)


def test_heads_that_its_kernels_do_not_know_are_told_at_once(model_dirs):
    with pytest.raises(UserError, match=r"^vLLM cannot run Qwen3ForCausalLM in this process \(.*head_dim=8"):
        write(load(model_dirs["student"]), "vllm")


# --- training ---


@pytest.mark.parametrize("lora", [None, LoraArgs(rank=4, alpha=8)], ids=["full", "lora"])
def test_it_samples_from_the_student_of_every_step(tiny_dirs, tmp_path, lora):
    model, drifts = on_policy(tiny_dirs, student=PolicyArgs(path=tiny_dirs["student"], lora=lora)), Drifts()
    trainer(tmp_path, callbacks=[drifts]).fit(model, Prompts(prompts(12)))
    assert len(drifts.largest) == 3
    assert max(drifts.largest) < 1e-4


def test_a_run_goes_on_as_if_it_had_not_been_stopped(tiny_dirs, tmp_path):
    unbroken = on_policy(tiny_dirs)
    trainer(tmp_path, max_epochs=3).fit(unbroken, Prompts(prompts(4)))
    first = trainer(tmp_path, max_epochs=2)
    first.fit(on_policy(tiny_dirs), Prompts(prompts(4)))
    first.save_checkpoint(tmp_path / "two.ckpt")
    resumed = on_policy(tiny_dirs)
    trainer(tmp_path, max_epochs=3).fit(resumed, Prompts(prompts(4)), ckpt_path=tmp_path / "two.ckpt")
    for name, parameter in resumed.policy.named_parameters():
        torch.testing.assert_close(parameter, unbroken.policy.get_parameter(name), atol=1e-5, rtol=0)


def test_held_out_prompts_are_answered_by_it_too(tiny_dirs, tmp_path):
    results = []
    for engine in ({"engine": "loop"}, {"engine": "vllm", "colocate": ROOM}):
        sampling: Any = {"n": 1, "max_new_tokens": 6, "temperature": 0, **engine}
        model = module(tiny_dirs, val_sampling=SamplingArgs(**sampling))
        runner = trainer(tmp_path, limit_val_batches=1.0)
        runner.validate(model, Prompts(prompts(8)), verbose=False)
        results.append(dict(runner.callback_metrics))
    assert results[0] == results[1]
    assert results[0]
