import os
import pickle
import signal
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny import trainer

from lit_uniopd.distributed.atomic_checkpoint import AtomicCheckpointIO
from lit_uniopd.errors import UserError


def test_a_checkpoint_comes_back(tmp_path):
    AtomicCheckpointIO().save_checkpoint({"step": 3}, tmp_path / "new/last.ckpt")
    assert torch.load(tmp_path / "new/last.ckpt", weights_only=True) == {"step": 3}
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("death", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")])
def test_a_failed_write_leaves_the_old_checkpoint_whole(tmp_path, monkeypatch, death):
    last = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 3}, last)

    def half_a_save(checkpoint, file):
        file.write(b"half")
        raise death

    monkeypatch.setattr(torch, "save", half_a_save)
    with pytest.raises(UserError, match=r"Cannot write the checkpoint .*last\.ckpt .*resume from the last one"):
        AtomicCheckpointIO().save_checkpoint({"step": 4}, last)
    assert torch.load(last, weights_only=True) == {"step": 3}
    assert list(tmp_path.iterdir()) == [last]


@pytest.mark.parametrize("monitor", [None, "x"])
@pytest.mark.parametrize("moment", ["half written", "before the rename", "after the rename", "before the removal"])
def test_a_process_killed_while_checkpoints_rotate_leaves_the_last_one_whole(tmp_path, moment, monitor):
    """Lightning keeps the newest one (or the best one) and `last.ckpt`; the kernel kills it at each moment of that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 on forks
        child = os.fork()
    if child == 0:
        try:
            rotate_until_killed(tmp_path, moment, monitor)
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    steps = {file.name: torch.load(file, weights_only=True)["global_step"] for file in tmp_path.glob("*.ckpt")}
    assert steps["last.ckpt"] >= 2
    assert len(steps) >= 2  # whatever has the name of a checkpoint can be loaded
    if moment == "before the removal":  # the new one is whole before the old one goes
        assert sorted(steps.values()) == [2, 2, 3]


def rotate_until_killed(directory: Path, moment: str, monitor: str | None) -> None:
    """Saves after each step; dies in the course of the sixth or seventh save."""
    calls, save, rename, remove = Counter(), torch.save, Path.replace, AtomicCheckpointIO.remove_checkpoint

    def due(event: str) -> bool:
        calls[event] += 1
        return moment == event and calls[event] >= 6

    def half_a_save(checkpoint, file):
        if due("half written"):
            file.write(b"half")
            die()
        save(checkpoint, file)

    def renamed(self, target):
        if due("before the rename"):
            die()
        rename(self, target)
        if due("after the rename"):
            die()

    def removed(self, path):
        calls["before the removal"] += 3
        if due("before the removal"):
            die()
        remove(self, path)

    torch.save, Path.replace = half_a_save, renamed  # type: ignore[method-assign]
    AtomicCheckpointIO.remove_checkpoint = removed
    saver = ModelCheckpoint(directory, monitor=monitor, mode="max", every_n_train_steps=1, save_last=True)
    trainer(directory, enable_checkpointing=True, callbacks=[saver], max_epochs=9, plugins=[AtomicCheckpointIO()]).fit(
        Counting(),
        torch.utils.data.DataLoader([0.0], batch_size=1),  # type: ignore[arg-type]
    )


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


class Counting(LightningModule):
    """A weight that grows, and a metric that does."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        self.log("x", float(self.global_step))
        return (self.weight - self.global_step) ** 2

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


# --- files that are no whole checkpoints ---


class Malicious:
    """What a pickle can do when it is executed."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def write_checkpoint(path: Path, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = {"state_dict": {"w": torch.arange(20000.0)}, "loops": {}, "policy_path": "p"}
    torch.save({**checkpoint, **more}, path)
    return path


def flipped(path: Path) -> None:
    content = bytearray(write_checkpoint(path).read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(write_checkpoint(path).read_bytes()[:50000]), r"is damaged \(cut off\)"),
        (lambda path: path.write_text("hello" * 99), "no checkpoint at all"),
        (flipped, "is damaged .wrong check sum of "),
        (lambda path: torch.save({"state_dict": {}}, path), "it has no 'loops'"),
        (lambda path: torch.save([1, 2], path), "it has no 'state_dict'"),
        (lambda path: write_checkpoint(path, evil=Malicious(path.parent / "mark")), "executing its pickle"),
        (lambda path: path.write_bytes(pickle.dumps(Malicious(path.parent / "mark"))), "no checkpoint at all"),
    ],
)
def test_a_file_that_is_no_whole_checkpoint_is_refused_and_another_one_named(tmp_path, spoil, problem):
    older = write_checkpoint(tmp_path / "version_0/checkpoints/last.ckpt")
    newer = tmp_path / "version_1/checkpoints/last.ckpt"
    newer.parent.mkdir(parents=True)
    spoil(newer)
    os.utime(older, (1, 1))
    (older.parent / "later.ckpt").write_bytes(b"half")
    with pytest.raises(UserError, match=f"{newer} .*{problem}.*; the newest whole one is --ckpt_path {older}"):
        AtomicCheckpointIO().load_checkpoint(newer)
    assert not (newer.parent / "mark").exists()
    assert AtomicCheckpointIO().load_checkpoint(older)["policy_path"] == "p"
    older.unlink()
    with pytest.raises(UserError, match="no other one lies beside it"):
        AtomicCheckpointIO().load_checkpoint(newer)
