"""A run records the rollouts that are worth a look, as its update saw them."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tiny import Prompts, adam, module, prompts, trainer

from callbacks import MarginCalibration, RolloutRecorder
from datamodules import PromptDataModule, SourceArgs
from lit_uniopd.errors import UserError
from lit_uniopd.modules import UniOPD
from lit_uniopd.modules.opd.losses import LossArgs
from lit_uniopd.monitoring.weighted_means import WeightedMeans
from lit_uniopd.types import Rollouts
from lit_uniopd.utils.jsonl import read_lines
from lit_uniopd.utils.stop_request import Stopped
from lit_uniopd.view import GROUPS_FILE

OPEN = LossArgs(gap_threshold=None)  # tiny random models differ by more than the usual threshold


class Watch(Callback):
    """Collects a run's rollouts."""

    def __init__(self) -> None:
        self.rollouts: list[Rollouts] = []

    def on_rollouts_scored(self, trainer: Any, pl_module: Any, rollouts: Rollouts) -> None:
        self.rollouts.append(rollouts)


def fit(model_dirs: dict[str, str], root: Path, *callbacks: Callback, steps: int = 3, **options: Any) -> Path:
    settings = {"optimizer": lambda params: torch.optim.SGD(params, lr=30.0), "gradient_clip": None, **options}
    model = module(model_dirs, **settings)
    logger = TensorBoardLogger(root, name="run")
    trainer(root, callbacks=list(callbacks), logger=logger, max_epochs=steps).fit(model, Prompts(prompts(4)))
    return Path(logger.log_dir) / GROUPS_FILE


def test_it_keeps_groups_of_every_domain_every_few_steps(model_dirs, tmp_path):
    watch = Watch()
    # The recorder stands before calibration: what is kept is what trained all the same.
    path = fit(model_dirs, tmp_path, RolloutRecorder(every_n_steps=2), MarginCalibration(delta=5.0), watch)
    lines = list(read_lines(path))
    assert {line["step"] for line in lines} == {0, 2}
    assert {(line["domain"], line["teacher"]) for line in lines} == {("math", "math"), ("code", "code")}
    for line in lines:
        rollouts = watch.rollouts[line["step"]]
        rows = [i for i, p in enumerate(rollouts.prompts) if p.messages[-1]["content"] == line["prompt"]]
        assert len(rows) == len(line["answers"]) == 3
        for row, answer in zip(rows, line["answers"], strict=True):
            real = rollouts.mask_BT[row]
            assert answer["advantage"] == pytest.approx(rollouts.advantages_BT[row][real].tolist(), abs=1e-3)
            assert answer["teacher"] == pytest.approx(rollouts.teacher_logps_BT[row][real].tolist(), abs=1e-3)


def test_clipped_tokens_are_those_that_the_loss_counts(model_dirs, tmp_path, monkeypatch):
    counted, merge = [], WeightedMeans.merge

    def recorded_merge(self: WeightedMeans, update: WeightedMeans) -> None:
        counted.append(update.state()["train/clip_fraction"][0])
        merge(self, update)

    monkeypatch.setattr(WeightedMeans, "merge", recorded_merge)
    watch = Watch()
    path = fit(model_dirs, tmp_path, RolloutRecorder(every_n_steps=1), watch, steps=1, updates_per_rollout=3, loss=OPEN)
    clipped = sum(int(rollouts.clipped_BT.sum()) for rollouts in watch.rollouts)
    assert clipped > 0
    assert len(counted) == 3
    assert clipped == pytest.approx(sum(counted))
    assert not any((rollouts.clipped_BT & ~rollouts.mask_BT).any() for rollouts in watch.rollouts)
    assert any("c" in answer["flags"] for line in read_lines(path) for answer in line["answers"])


def test_a_rollout_that_is_resumed_between_its_updates_is_kept(model_dirs, tmp_path, monkeypatch):
    rows = [{"prompt": f"{i}+1=", "answer": str(i + 1), "domain": ("math", "code")[i % 2]} for i in range(8)]
    table = tmp_path / "prompts.jsonl"
    table.write_text("".join(json.dumps({**row, "grader": "exact"}) + "\n" for row in rows))

    def run(name: str, ckpt_path: Path | None = None) -> list[dict[str, Any]]:
        data = PromptDataModule(train=SourceArgs(path=str(table)), batch_size=4, seed=3)
        logger, saver = (
            TensorBoardLogger(tmp_path, name=name),
            ModelCheckpoint(tmp_path / "ckpt" / name, save_last=True),
        )
        callbacks = [saver, RolloutRecorder(every_n_steps=1)]
        settings: dict[str, Any] = {"callbacks": callbacks, "logger": logger, "enable_checkpointing": True}
        model = module(model_dirs, optimizer=adam, updates_per_rollout=3)
        try:
            trainer(tmp_path, max_epochs=1, **settings).fit(model, data, ckpt_path=ckpt_path, weights_only=True)
        finally:
            lines = list(read_lines(Path(logger.log_dir) / GROUPS_FILE))
        return lines

    unbroken = run("unbroken")
    assert {line["step"] for line in unbroken} == {0, 1}
    clip, calls = UniOPD.clip, []

    def clip_until_killed(self: UniOPD) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 5:  # in the second of the second rollout's three updates
            os.kill(os.getpid(), signal.SIGTERM)
        return clip(self)

    with monkeypatch.context() as patch:
        patch.setattr(UniOPD, "clip", clip_until_killed)
        with pytest.raises(Stopped):
            run("killed")
    before = list(read_lines(tmp_path / "killed/version_0" / GROUPS_FILE))
    after = run("resumed", tmp_path / "ckpt/killed/last.ckpt")
    assert {line["step"] for line in before} == {0}
    assert before + after == unbroken


def test_nothing_is_clipped_in_the_only_update(model_dirs, tmp_path):
    watch = Watch()
    fit(model_dirs, tmp_path, RolloutRecorder(), watch, steps=1, optimizer=adam)
    assert not any(rollouts.clipped_BT.any() for rollouts in watch.rollouts)


def test_numbers_below_one_are_refused():
    with pytest.raises(UserError, match=r"RolloutRecorder\.max_tokens must be at least 1, got 0"):
        RolloutRecorder(max_tokens=0)
