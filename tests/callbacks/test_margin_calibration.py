"""The callback around `functional.margin`: which samples count, what is changed, logged and remembered."""

from typing import Any

import pytest
import torch
from callbacks_data import rollouts
from lightning import Callback
from tiny import Memory, Prompts, module, prompts, trainer

from callbacks.margin_calibration import MarginCalibration
from lit_uniopd.errors import UserError
from lit_uniopd.functional.grouped_returns import trajectory_returns
from lit_uniopd.functional.order import order_consistency
from lit_uniopd.types import Rollouts


def returns_after(calibration: MarginCalibration, batch: Rollouts, **options: Any) -> list[float]:
    result = calibration.calibrate(batch, **options)
    return trajectory_returns(result.advantages, batch.mask_BT).tolist()


def test_a_violated_group_ends_at_the_margin_and_keeps_its_middle():
    batch = rollouts([[-0.2, -0.2], [-0.1]], [1, 0], [0, 0])  # the paper's example: the wrong answer returns more
    assert returns_after(MarginCalibration(delta=0.4), batch) == pytest.approx([0.05, -0.35])
    assert returns_after(MarginCalibration(delta=0.0, direction="correct_up"), batch) == pytest.approx([-0.1, -0.1])


def test_removed_unscored_and_gap_masked_answers_make_no_margin_unless_asked_for():
    batch = rollouts([[-0.2], [-0.1], [-5.0], [-7.0], [-20.0]], [1, 0, 1, 1, 1], [0] * 5)
    batch.keep_B[2] = False
    batch.teacher_ok_B[3] = False
    assert returns_after(MarginCalibration(), batch, gap_threshold=10.0) == pytest.approx([0.05, -0.35, -5, -7, -20])
    result = MarginCalibration(samples="all").calibrate(batch, gap_threshold=10.0)
    assert result.margin_before.item() == pytest.approx((-0.2 - 5 - 7 - 20) / 4 + 0.1)


def test_a_mask_drops_the_worst_answers():
    batch = rollouts([[0.5], [-3.0], [0.0], [0.1]], [1, 1, 0, 0], [0] * 4)
    result = MarginCalibration(variant="mask", delta=0.3).calibrate(batch)
    assert result.masked_B.tolist() == [False, True, False, False]


def test_a_discard_drops_all_answers_to_a_prompt_in_the_wrong_order():
    batch = rollouts([[0.5], [-3.0], [0.0], [0.1], [0.2], [0.1]], [1, 1, 0, -1, 1, 0], [0, 0, 0, 0, 1, 1])
    calibration = MarginCalibration(variant="discard", delta=0.0, statistic="minmax")
    assert returns_after(calibration, batch) == pytest.approx([0.0, 0.0, 0.0, 0.0, 0.2, 0.1])
    with pytest.raises(UserError, match="variant discard would drop the whole rollout with scope global"):
        MarginCalibration(variant="discard", scope="global")


def test_a_step_whose_mixed_groups_are_all_discarded_logs_no_margin_after(model_dirs, tmp_path):
    calibration = MarginCalibration(variant="discard", delta=1e9)
    memory = Memory()
    callbacks = [HalfRight(), calibration]
    trainer(tmp_path, max_steps=1, callbacks=callbacks, logger=memory).fit(module(model_dirs), Prompts(prompts(2)))
    assert memory.values["calibration/violated"] == 1.0
    assert memory.values["calibration/masked"] == 1.0
    assert "calibration/margin_after" not in memory.values


class Spy(Callback):
    """What the update sees."""

    def on_rollouts_scored(self, trainer: Any, pl_module: Any, rollouts: Rollouts) -> None:
        self.rollouts = rollouts


class HalfRight(Callback):
    """Every other answer counts as right."""

    def on_rollouts_scored(self, trainer: Any, pl_module: Any, rollouts: Rollouts) -> None:
        rollouts.outcome_B[:] = torch.arange(len(rollouts)) % 2


def test_in_a_run_every_mixed_group_is_calibrated_before_the_update(model_dirs, tmp_path):
    calibration, spy, memory = MarginCalibration(delta=0.4), Spy(), Memory()
    trainer(tmp_path, callbacks=[HalfRight(), calibration, spy], logger=memory).fit(
        module(model_dirs), Prompts(prompts(4))
    )
    report = order_consistency(
        trajectory_returns(spy.rollouts.advantages_BT, spy.rollouts.mask_BT),
        spy.rollouts.outcome_B,
        spy.rollouts.group_B,
    )
    assert report.margin_mean.min() >= 0.4 - 1e-5
    assert memory.values["calibration/mixed"] == 1.0
    assert memory.values["calibration/margin_after"] >= 0.4 - 1e-5
    assert memory.values["calibration/shift"] > 0

    assert calibration.totals["mixed"] == 4
    later = MarginCalibration()
    later.load_state_dict(calibration.state_dict())
    assert later.totals == calibration.totals


def test_a_share_beyond_one_is_refused():
    with pytest.raises(UserError, match="min_retain"):
        MarginCalibration(min_retain=1.5)
