"""What a run logs about the order of returns."""

from typing import Any

import torch
from lightning import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from tiny import Memory, Prompts, module, prompts, trainer

from callbacks import MarginCalibration, OrderDiagnostics
from lit_uniopd.diagnostics import advice


class HalfRight(Callback):
    def on_rollouts_scored(self, trainer: Any, pl_module: Any, rollouts: Any) -> None:
        rollouts.outcome_B[:] = torch.arange(len(rollouts)) % 2


def test_in_a_run_everything_is_in_tensorboard(model_dirs, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(str(tmp_path), name="run")
    callbacks = [HalfRight(), MarginCalibration(), OrderDiagnostics(every_n_steps=1)]
    trainer(tmp_path, callbacks=callbacks, logger=logger).fit(module(model_dirs), Prompts(prompts(4)))
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    tags = events.Tags()
    assert {"order/consistent_before", "order/domain/math/inversions_after", "order/teacher/code/shift"} <= set(
        tags["scalars"]
    )
    assert "order/returns_and_margins" in tags["images"]
    assert {"order/margins_before", "order/returns_correct_after"} <= set(tags["histograms"])
    assert "order/misjudged/text_summary" in tags["tensors"]


def test_only_every_nth_step_is_logged(model_dirs, tmp_path):
    steps: list[int | None] = []

    class Steps(Memory):
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            steps.extend([step] * ("order/mixed" in metrics))

    run = trainer(tmp_path, callbacks=[HalfRight(), OrderDiagnostics()], logger=Steps(), log_every_n_steps=2)
    run.fit(module(model_dirs), Prompts(prompts(16)))
    assert steps == [1, 3]


def test_a_run_is_told_what_its_order_says_and_a_resumed_one_the_same(model_dirs, tmp_path):
    """Half of the answers of every group are right, so that all groups are mixed."""
    diagnostics = OrderDiagnostics()
    run = trainer(tmp_path, callbacks=[HalfRight(), diagnostics])
    run.fit(module(model_dirs), Prompts(prompts(16)))
    totals = diagnostics.totals
    assert totals.rollouts == totals.ordered > 1
    assert totals.mixed == totals.rollouts
    assert diagnostics.advice(run) == []  # 16 groups are too few to speak of
    totals.groups, totals.inversions = advice.ENOUGH, 0.3 * totals.ordered
    resumed = OrderDiagnostics()
    resumed.load_state_dict(diagnostics.state_dict())
    (line,) = resumed.advice(run)
    assert line.startswith("calibration: 30% of the graded pairs are misordered; callbacks.MarginCalibration would")
    calibrated = trainer(tmp_path, callbacks=[MarginCalibration(), resumed])
    assert resumed.advice(calibrated) == []


def test_answers_that_are_left_out_are_counted(model_dirs, tmp_path):
    class LeaveOut(Callback):
        def on_rollouts_scored(self, trainer: Any, pl_module: Any, rollouts: Any) -> None:
            rollouts.keep_B[::4] = False

    diagnostics = OrderDiagnostics()
    run = trainer(tmp_path, callbacks=[HalfRight(), LeaveOut(), diagnostics])
    run.fit(module(model_dirs), Prompts(prompts(4)))
    assert diagnostics.totals.removed / diagnostics.totals.rollouts == 0.25
