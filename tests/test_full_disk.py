"""A disk that is really full: a file system of a few megabytes."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tiny import Prompts, adam, module, prompts, trainer

from callbacks.prediction_writer import PredictionWriter
from lit_uniopd.errors import UserError, explain_failure
from lit_uniopd.utils.jsonl import append_lines, read_lines


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Four megabytes."""
    root = tmp_path / "disk"
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(root)]
    if not sys.platform.startswith("linux") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs Linux and root")
    yield root
    subprocess.run(["umount", "-l", str(root)], check=True)


def fill(disk: Path, leaving: int = 0) -> None:
    """Use up all but some bytes."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (65536, 1024, 1):
            try:
                while True:
                    file.write(b"0" * size)
            except OSError:
                continue
    with filler.open("r+b") as file:
        file.truncate(filler.stat().st_size - leaving)


def test_a_run_ends_in_one_sentence_and_its_last_checkpoint_is_whole(model_dirs, disk, tmp_path):
    saver = ModelCheckpoint(dirpath=disk / "ckpt", save_last=True, every_n_train_steps=1)
    data = Prompts(prompts(12))

    class Filler(Prompts):
        def on_rollouts_scored(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 1:
                fill(disk, leaving=100_000)

    data = Filler(prompts(12))
    run = trainer(tmp_path, enable_checkpointing=True, callbacks=[saver])
    with pytest.raises(
        UserError, match=r"Cannot write the checkpoint .*\(\[Errno 28\] No space left on device\); free"
    ):
        run.fit(module(model_dirs, optimizer=adam), data)
    assert torch.load(disk / "ckpt/last.ckpt", weights_only=True)["global_step"] == 1
    assert not list((disk / "ckpt").glob("*.partial"))


def test_ledgers_keep_what_they_hold(disk):
    ledger = disk / "ledger.jsonl"
    append_lines(ledger, [{"prompt": "a"}])
    fill(disk)
    with pytest.raises(UserError, match=r"Cannot write .*ledger.jsonl any more: the disk is full; free some space"):
        append_lines(ledger, [{"prompt": "b", "text": "x" * 99999}])
    (disk / "filler").unlink()
    append_lines(ledger, [{"prompt": "c"}])
    assert [line["prompt"] for line in read_lines(ledger)] == ["a", "c"]


def test_predictions_and_records_end_in_one_sentence(model_dirs, disk, tmp_path):
    fill(disk)
    run = trainer(tmp_path, callbacks=[PredictionWriter(str(disk / "predictions.jsonl"))])
    with pytest.raises(UserError, match=r"Cannot write .*predictions.jsonl any more: the disk is full"):
        run.predict(module(model_dirs), Prompts(prompts(4)))
    run = trainer(disk, limit_val_batches=1.0)
    with pytest.raises((UserError, OSError)) as stop:
        run.validate(module(model_dirs), Prompts(prompts(4)), verbose=False)
    assert "disk is full" in str(explain_failure(stop.value) or stop.value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_events_of_tensorboard_end_in_one_sentence(disk):
    logger = TensorBoardLogger(disk, name="run", default_hp_metric=False)
    logger.log_metrics({"x": 1.0}, 0)
    fill(disk)

    def log_on() -> None:
        for step in range(9999):
            logger.experiment.add_text("answer", "x" * 9999, step)

    with pytest.raises(OSError, match="No space left") as stop:
        log_on()
    for writer in threading.enumerate():  # its own error must not be that of a later test
        if type(writer).__name__ == "_AsyncWriterThread":
            writer.join(timeout=60)
    told = str(explain_failure(stop.value))
    assert "Cannot write any more: the disk is full; free some space and go on with the same command and" in told
