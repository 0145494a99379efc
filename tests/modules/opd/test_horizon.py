"""Answers that grow with the run."""

from typing import Any

import pytest
import torch
from modules.opd.test_uni_opd import KillAt, Killed, Recorder, checkpointed, shuffled_prompts
from tiny import Memory, Prompts, adam, module, prompts, trainer, weights

from lit_uniopd.errors import UserError
from lit_uniopd.grade import Grade
from lit_uniopd.modules.opd.horizon import HorizonArgs, forget_cut
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.types import CORRECT, INCORRECT, UNKNOWN


def test_it_grows_evenly_and_stays():
    horizon = HorizonArgs(start=4, steps=3)
    assert [horizon.length(step, 10) for step in range(6)] == [4, 6, 8, 10, 10, 10]
    assert [horizon.length(step, 5) for step in (0, 1, 2, 3)] == [4, 4, 4, 5]
    assert horizon.length(0, 3) == 3


@pytest.mark.parametrize(("updates", "expected"), [(1, [2, 4, 6]), (2, [2, 6, 6])])
def test_rollouts_are_as_long_as_their_step_allows(model_dirs, tmp_path, updates, expected):
    """Counted in optimizer steps, of which a rollout may have two."""
    horizon, recorder = HorizonArgs(start=2, steps=2), Recorder()
    model = module(model_dirs, horizon=horizon, updates_per_rollout=updates)
    trainer(tmp_path, callbacks=[recorder]).fit(model, Prompts(prompts(12)))
    assert [int(rollouts.lengths_B.max()) for rollouts in recorder.rollouts] == expected
    assert model.val_sampling.max_new_tokens == 6


@pytest.mark.parametrize("step", [0, 2])
def test_wrong_answers_that_were_cut_are_unknown(step):
    outcomes = [("length", False), ("length", True), ("stop", False), ("stop", True), ("length", None)]
    rollouts: Any = type("Graded", (), {})()
    rollouts.finish = [finish for finish, _ in outcomes]
    rollouts.grades = [Grade(correct=correct, score=float(bool(correct))) for _, correct in outcomes]
    rollouts.outcome_B = torch.tensor([grade.outcome for grade in rollouts.grades])
    forget_cut(rollouts, SamplingArgs(max_new_tokens=8), HorizonArgs(start=4, steps=2), step)
    first = INCORRECT if step == 2 else UNKNOWN  # at full length an answer that was cut is wrong, as without a horizon
    assert rollouts.outcome_B.tolist() == [first, CORRECT, INCORRECT, CORRECT, UNKNOWN]
    assert [grade.outcome for grade in rollouts.grades] == rollouts.outcome_B.tolist()
    assert rollouts.grades[0].reason == ("ok" if step == 2 else "truncated")


def test_what_the_horizon_cuts_is_no_failure_of_graders(model_dirs, tmp_path):
    memory, model = Memory(), module(model_dirs, horizon=HorizonArgs(start=2, steps=2))
    trainer(tmp_path, max_steps=1, logger=memory).fit(model, Prompts(prompts(4)))
    assert memory.values["rollout/truncated"] > 0.5
    assert memory.values["rollout/unknown_outcomes"] == 0


def test_a_killed_and_resumed_run_equals_an_unbroken_one(model_dirs, tmp_path):
    options: dict[str, Any] = {"horizon": HorizonArgs(start=2, steps=4), "optimizer": adam}
    unbroken = module(model_dirs, **options)
    checkpointed(tmp_path / "whole").fit(unbroken, shuffled_prompts(tmp_path))
    first = checkpointed(tmp_path / "first")
    first.callbacks.append(KillAt(2))
    with pytest.raises(Killed):
        first.fit(module(model_dirs, **options), shuffled_prompts(tmp_path))
    second, last = module(model_dirs, **options), tmp_path / "first/ckpt/last.ckpt"
    checkpointed(tmp_path / "second").fit(second, shuffled_prompts(tmp_path), ckpt_path=last, weights_only=True)
    assert all(torch.equal(p, weights(unbroken)[name]) for name, p in weights(second).items())


@pytest.mark.parametrize("options", [{"start": 0, "steps": 1}, {"start": 1, "steps": 0}])
def test_nothing_and_never_are_refused(options):
    with pytest.raises(UserError, match=r"--model\.horizon\.start and steps must be at least 1"):
        HorizonArgs(**options)


def test_a_horizon_beyond_the_limit_is_refused(model_dirs, tmp_path):
    model = module(model_dirs, horizon=HorizonArgs(start=6, steps=2))
    with pytest.raises(UserError, match=r"horizon\.start 6 is not below --model\.sampling\.max_new_tokens 6"):
        trainer(tmp_path).fit(model, Prompts(prompts(4)))
