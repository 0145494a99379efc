"""`every_n_steps` counts optimizer steps in every callback, also where a batch is several of them."""

import doctest
import json
import os
import signal
from typing import Any

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import Prompts, adam, module, prompts, trainer

from callbacks import BenchmarkEvaluation, HallucinationDiagnostics, OrderDiagnostics, RolloutBrowser, RolloutRecorder
from datamodules import PromptDataModule, SourceArgs
from lit_uniopd.errors import UserError
from lit_uniopd.modules import SFT, UniOPD
from lit_uniopd.monitoring import step_interval
from lit_uniopd.monitoring.weighted_means import WeightedMeans
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.utils.jsonl import read_lines
from lit_uniopd.utils.run_directory import run_directory
from lit_uniopd.utils.stop_request import Stopped
from lit_uniopd.view import GROUPS_FILE


def test_the_examples():
    results = doctest.testmod(step_interval)
    assert (results.attempted > 0, results.failed) == (True, 0), "see the captured output"


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(class, optimizer steps) of every measurement between the first step and the last."""
    calls: list[tuple[str, int]] = []

    def patched(kind: type[Callback], method: str) -> None:
        monkeypatch.setattr(kind, method, lambda self, run, *_: calls.append((kind.__name__, run.global_step)))

    patched(BenchmarkEvaluation, "evaluate")
    patched(HallucinationDiagnostics, "measure")
    for kind in (BenchmarkEvaluation, HallucinationDiagnostics):
        for hook in ("setup", "on_train_start", "on_train_end", "teardown"):
            monkeypatch.setattr(kind, hook, lambda *_, **__: None)
    return calls


def measuring(every: int) -> list[Callback]:
    return [
        BenchmarkEvaluation(["playground"], profile="fixture", every_n_steps=every),
        HallucinationDiagnostics("chair", profile="fixture", every_n_steps=every),
    ]


def test_a_rollout_of_four_updates_jumps_over_no_multiple(model_dirs, tmp_path, evaluated):
    logger = TensorBoardLogger(str(tmp_path), name="run")
    shown = [kind(every_n_steps=10) for kind in (RolloutBrowser, RolloutRecorder, OrderDiagnostics)]
    run = trainer(tmp_path, callbacks=[*measuring(10), *shown], logger=logger)
    run.fit(module(model_dirs, updates_per_rollout=4), Prompts(prompts(32)))
    assert run.global_step == 32
    # Batches end at 4, 8, ..., 32: the first at or after 10, 20, 30 are 12, 20, 32.
    for name in ("BenchmarkEvaluation", "HallucinationDiagnostics"):
        assert [step for kind, step in evaluated if kind == name] == [12, 20, 32]
    # Rollouts are written by weights of 0, 4, ..., 28 steps: those of 0, 12 and 20 are numbers 0, 3 and 5.
    assert {line["step"] for line in read_lines(run_directory(run) / GROUPS_FILE)} == {0, 3, 5}
    events = EventAccumulator(logger.log_dir, size_guidance={"tensors": 0}).Reload()
    assert [event.step for event in events.Tensors("rollout/math/text_summary")] == [0, 3, 5]


def test_batches_whose_gradients_wait_count_once(model_dirs, tmp_path):
    """Under `accumulate_grad_batches` several batches end at the same optimizer step."""

    ends: list[tuple[int, bool]] = []

    class Counted(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:  # type: ignore[override]
            ends.append((trainer.global_step, step_interval.batch_passes_multiple(trainer, 2)))

    table = tmp_path / "rows.jsonl"
    table.write_text("".join(json.dumps({"prompt": f"{i}+1=", "answer": f"{i + 1}"}) + "\n" for i in range(9)))
    data = PromptDataModule(train=SourceArgs(path=str(table), grader="exact"), batch_size=1, seed=1)
    run = trainer(tmp_path, callbacks=[Counted()], accumulate_grad_batches=2)
    run.fit(SFT(PolicyArgs(path=model_dirs["student"]), optimizer=adam, seed=1), data)
    # Nine batches of one row: steps after the 2nd, 4th, 6th, 8th and, the epoch being over, the 9th.
    assert ends == [
        *((0, False), (1, False), (1, False), (2, True), (2, False)),
        *((3, False), (3, False), (4, True), (5, False)),
    ]


def test_a_run_that_is_resumed_within_a_rollout_measures_as_an_unbroken_one(
    model_dirs, tmp_path, evaluated, monkeypatch
):
    rows = [{"prompt": f"{i}+1=", "answer": str(i + 1), "domain": ("math", "code")[i % 2]} for i in range(8)]
    table = tmp_path / "prompts.jsonl"
    table.write_text("".join(json.dumps({**row, "grader": "exact"}) + "\n" for row in rows))
    step_on = UniOPD.optimizer_step_on

    def stopped_before_the_sixth(self: UniOPD, *arguments: Any) -> WeightedMeans:
        if self.global_step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return step_on(self, *arguments)

    def run(name: str, ckpt_path: Any = None) -> None:
        data = PromptDataModule(train=SourceArgs(path=str(table)), batch_size=2, seed=3)
        saver = ModelCheckpoint(tmp_path / name, save_last=True)
        settings: dict[str, Any] = {"callbacks": [saver, *measuring(5)], "enable_checkpointing": True}
        model = module(model_dirs, optimizer=adam, updates_per_rollout=3)
        trainer(tmp_path, **settings).fit(model, data, ckpt_path=ckpt_path, weights_only=True)

    monkeypatch.setattr(UniOPD, "optimizer_step_on", stopped_before_the_sixth)
    with pytest.raises(Stopped):
        run("stopped")
    assert evaluated == []
    monkeypatch.setattr(UniOPD, "optimizer_step_on", step_on)
    assert torch.load(tmp_path / "stopped/last.ckpt", weights_only=True)["global_step"] == 5
    run("resumed", tmp_path / "stopped/last.ckpt")
    # Rollouts end at 3, 6, 9, 12. The one that was stopped at 5 ends at 6, and passes 5 there; 10 is passed at 12.
    assert [step for kind, step in evaluated if kind == "BenchmarkEvaluation"] == [6, 12]
    assert [step for kind, step in evaluated if kind == "HallucinationDiagnostics"] == [6, 12]


def test_figures_of_the_order_show_all_rollouts_since_the_last(model_dirs, tmp_path, monkeypatch):
    counts: list[tuple[int, int]] = []
    monkeypatch.setattr(
        OrderDiagnostics,
        "_write",
        lambda self, writer, rollouts, judged, step: counts.append((step, len(self._judged))),
    )
    logger = TensorBoardLogger(str(tmp_path), name="run")
    run = trainer(tmp_path, callbacks=[OrderDiagnostics(every_n_steps=4)], logger=logger)
    run.fit(module(model_dirs, updates_per_rollout=2), Prompts(prompts(20)))
    # Written by weights of 0, 2, 4, 6, 8 steps.
    assert counts == [(0, 1), (2, 2), (4, 2)]


@pytest.mark.parametrize("kind", [RolloutBrowser, RolloutRecorder, OrderDiagnostics])
def test_every_zero_steps_is_refused(kind):
    with pytest.raises(UserError, match=rf"{kind.__name__}.every_n_steps must be at least 1, got 0"):
        kind(every_n_steps=0)
