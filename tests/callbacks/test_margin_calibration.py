"""The callback around `functional.margin`: which samples count, what is changed, logged and remembered."""

from typing import Any

import pytest
import torch
from lightning import Callback
from tiny import Prompts, module, prompts, trainer

from callbacks.margin_calibration import MarginCalibration
from lit_uniopd.errors import UserError
from lit_uniopd.functional.margin import order_consistency, trajectory_returns
from lit_uniopd.rollout import NO_GRADER
from lit_uniopd.types import Prompt, Rollouts


def rollouts(returns: list[list[float]], outcomes: list[int], groups: list[int]) -> Rollouts:
    """Scored answers whose token advantages are given; student log-probs are 0."""
    width = max(map(len, returns))
    advantages = torch.tensor([row + [0.0] * (width - len(row)) for row in returns])
    mask = torch.tensor([[i < len(row) for i in range(width)] for row in returns])
    count = len(returns)
    return Rollouts(
        prompts=[Prompt(id=str(g), messages=({"role": "user", "content": ""},)) for g in groups],
        prompt_tokens=[[1]] * count,
        tokens_BT=torch.ones_like(mask, dtype=torch.long),
        mask_BT=mask,
        student_logps_BT=torch.zeros_like(advantages),
        group_B=torch.tensor(groups),
        finish=["stop"] * count,
        text=[""] * count,
        outcome_B=torch.tensor(outcomes),
        grades=[NO_GRADER] * count,
        teacher_logps_BT=advantages.clone(),
        teacher_ok_B=torch.ones(count, dtype=torch.bool),
        advantages_BT=advantages,
        keep_B=torch.ones(count, dtype=torch.bool),
    )


def returns_after(calibration: MarginCalibration, given: Rollouts, **options: Any) -> list[float]:
    result = calibration.calibrate(given, **options)
    return trajectory_returns(result.advantages, given.mask_BT).tolist()


def test_a_violated_group_ends_at_the_margin_and_keeps_its_middle():
    given = rollouts([[-0.2, -0.2], [-0.1]], [1, 0], [0, 0])  # the paper's example: the wrong answer returns more
    assert returns_after(MarginCalibration(delta=0.4), given) == pytest.approx([0.05, -0.35])
    assert returns_after(MarginCalibration(delta=0.0, direction="correct_up"), given) == pytest.approx([-0.1, -0.1])


def test_removed_unscored_and_gap_masked_answers_make_no_margin_unless_asked_for():
    given = rollouts([[-0.2], [-0.1], [-5.0], [-7.0], [-20.0]], [1, 0, 1, 1, 1], [0] * 5)
    given.keep_B[2] = False
    given.teacher_ok_B[3] = False
    assert returns_after(MarginCalibration(), given, gap_threshold=10.0) == pytest.approx([0.05, -0.35, -5, -7, -20])
    result = MarginCalibration(samples="all").calibrate(given, gap_threshold=10.0)
    assert result.margin_before.item() == pytest.approx((-0.2 - 5 - 7 - 20) / 4 + 0.1)


def test_a_mask_drops_the_worst_answers():
    given = rollouts([[0.5], [-3.0], [0.0], [0.1]], [1, 1, 0, 0], [0] * 4)
    result = MarginCalibration(variant="mask", delta=0.3).calibrate(given)
    assert result.masked_B.tolist() == [False, True, False, False]


class Spy(Callback):
    """What the update sees."""

    def on_rollouts_scored(self, trainer: Any, pl_module: Any, rollouts: Rollouts) -> None:
        self.seen = rollouts

    def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.logged = {name: float(value) for name, value in trainer.callback_metrics.items()}


class HalfRight(Callback):
    """Every other answer counts as right."""

    def on_rollouts_scored(self, trainer: Any, pl_module: Any, rollouts: Rollouts) -> None:
        rollouts.outcome_B[:] = torch.arange(len(rollouts)) % 2


def test_in_a_run_every_mixed_group_is_calibrated_before_the_update(model_dirs, tmp_path):
    calibration, spy = MarginCalibration(delta=0.4), Spy()
    trainer(tmp_path, callbacks=[HalfRight(), calibration, spy]).fit(module(model_dirs), Prompts(prompts(4)))
    report = order_consistency(
        trajectory_returns(spy.seen.advantages_BT, spy.seen.mask_BT), spy.seen.outcome_B, spy.seen.group_B
    )
    assert report.margin_mean.min() >= 0.4 - 1e-5
    assert spy.logged["calibration/mixed"] == 1.0
    assert spy.logged["calibration/margin_after"] >= 0.4 - 1e-5
    assert spy.logged["calibration/shift"] > 0

    assert calibration.totals["mixed"] == 4
    later = MarginCalibration()
    later.load_state_dict(calibration.state_dict())
    assert later.totals == calibration.totals


def test_a_share_beyond_one_is_refused():
    with pytest.raises(UserError, match="min_retain"):
        MarginCalibration(min_retain=1.5)
