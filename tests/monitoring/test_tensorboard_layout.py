"""The tab CUSTOM SCALARS of TensorBoard: its curves are there, whatever the run has, and in no other logger's way."""

from types import SimpleNamespace
from typing import Any

import pytest
from lightning import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard_events import curves_of, layout_of
from tiny import Prompts, adam, module, prompts, trainer

from callbacks import HallucinationDiagnostics, MarginCalibration, OrderDiagnostics
from lit_uniopd.modules.opd.losses import LossArgs
from lit_uniopd.monitoring.tensorboard_layout import write_layout
from lit_uniopd.types import Rollouts


class Mixed(Callback):
    """Right and wrong answers in every group, whatever a random model writes."""

    def on_rollouts_scored(self, trainer: Any, pl_module: Any, rollouts: Rollouts) -> None:
        for row in range(len(rollouts)):
            rollouts.outcome_B[row] = row % 2


def test_every_curve_of_a_calibrated_run_is_logged(model_dirs, tmp_path):
    callbacks = [Mixed(), MarginCalibration(delta=5.0), OrderDiagnostics()]
    logger = TensorBoardLogger(tmp_path, name="run")
    run = trainer(tmp_path, callbacks=callbacks, logger=logger, max_epochs=1, log_every_n_steps=1)
    run.fit(module(model_dirs, optimizer=adam, loss=LossArgs(gap_threshold=None)), Prompts(prompts(4)))
    (charts,) = curves_of(logger.log_dir).values()
    tags = [tag for curves in charts.values() for tag in curves]
    assert {"order/consistent_before", "order/consistent_after", "calibration/margin_after"} <= set(tags)
    assert {"teacher/math/kl", "domain/code/outcome_rate", "train/clip_fraction", "time/rollout"} <= set(tags)
    assert len(tags) == len(set(tags))


def test_what_a_loss_does_not_log_is_not_in_its_layout(model_dirs, tmp_path):
    logger = TensorBoardLogger(tmp_path, name="run")
    run = trainer(tmp_path, logger=logger, max_epochs=1, log_every_n_steps=1)
    run.fit(module(model_dirs, optimizer=adam, loss=LossArgs(kind="forward_kl")), Prompts(prompts(4)))
    (charts,) = curves_of(logger.log_dir).values()
    assert "train/clip_fraction" not in [tag for curves in charts.values() for tag in curves]


@pytest.mark.parametrize("kind", ["none", "csv"])
def test_runs_without_tensorboard_have_no_layout(model_dirs, tmp_path, kind):
    logger: Any = False if kind == "none" else CSVLogger(tmp_path)
    run = trainer(tmp_path, logger=logger, max_epochs=1, log_every_n_steps=1)
    run.fit(module(model_dirs, optimizer=adam), Prompts(prompts(4)))
    assert not list(tmp_path.rglob("events.*"))


def test_parts_share_charts_and_only_rank_0_writes(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    module_charts = SimpleNamespace(essential_charts=lambda: {"Loss": ["train/loss"], "Time": ["time/a+b"]})
    callback_charts = SimpleNamespace(essential_charts=lambda: {"Loss": ["val/loss", "train/loss"]})
    run: Any = SimpleNamespace(is_global_zero=False, callbacks=[callback_charts, object()], loggers=[logger])
    write_layout(run, module_charts)  # pyright: ignore[reportArgumentType]
    assert not list(tmp_path.rglob("events.*"))
    run.is_global_zero = True
    write_layout(run, module_charts)  # pyright: ignore[reportArgumentType]
    logger.experiment.flush()
    layout = layout_of(EventAccumulator(logger.log_dir, size_guidance={"tensors": 0}).Reload())
    assert layout == {"SimpleNamespace": {"Loss": ["train/loss$", "val/loss$"], "Time": [r"time/a\+b$"]}}


def test_every_way_of_decoding_has_its_curves():
    charts = HallucinationDiagnostics("playground_scenes", temperatures=[0.0, 0.5]).essential_charts()
    assert charts["Objects named (recall)"] == [
        "hallucination/greedy/recall",
        "hallucination/temperature_0.5/recall",
    ]
