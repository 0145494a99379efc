"""Checkpoints that are directories: whole or not there, and never unpickled."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from tiny import trainer

from lit_uniopd.cli.app import find_checkpoint
from lit_uniopd.distributed import sharded_checkpoint
from lit_uniopd.distributed.atomic_checkpoint import AtomicCheckpointIO
from lit_uniopd.distributed.sharded_checkpoint import load_sharded, save_sharded
from lit_uniopd.errors import UserError
from lit_uniopd.utils.checkpoint_directory import META, is_sharded_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
NAMES = [["a.weight", "b.bias"]]


def checkpoint(value: float) -> dict:
    state = {0: {"step": torch.tensor(3.0), "exp_avg": torch.full((3, 2), value)}, 1: {"step": torch.tensor(3.0)}}
    return {
        "state_dict": {"a.weight": torch.full((3, 2), value), "b.bias": torch.full((4,), value)},
        "optimizer_states": [{"state": state, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}],
        "global_step": int(value),
    }


def save(value: float, path: Path) -> None:
    """Of one process."""
    save_sharded(checkpoint(value), path, NAMES, lambda: None, True)


def step_of(path: Path) -> int:
    return AtomicCheckpointIO().load_checkpoint(path)["global_step"]


def test_a_checkpoint_comes_back_whole_also_through_other_strategies(tmp_path):
    save(2.0, tmp_path / "last.ckpt")
    loaded = AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert loaded.keys() == checkpoint(2.0).keys()
    torch.testing.assert_close(loaded["state_dict"], checkpoint(2.0)["state_dict"])
    torch.testing.assert_close(loaded["optimizer_states"], checkpoint(2.0)["optimizer_states"])
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_another_model_is_told_of_before_anything_is_read(tmp_path):
    save(2.0, tmp_path / "last.ckpt")
    loaded = load_sharded(tmp_path / "last.ckpt", {"a.weight": torch.zeros(5, 5)}, with_optimizers=False)
    assert {name: tuple(t.shape) for name, t in loaded["state_dict"].items()} == {"a.weight": (3, 2), "b.bias": (4,)}


@pytest.mark.parametrize("moment", ["writing", "before the swap", "in the swap", "after the swap"])
def test_a_process_killed_at_any_moment_leaves_a_whole_checkpoint(moment, tmp_path, monkeypatch):
    last = tmp_path / "last.ckpt"
    save(2.0, last)
    renames: list[Path] = []
    rename = Path.rename

    def killed(*args, **options):
        raise KeyboardInterrupt

    def mortal(self, target):
        if len(renames) == {"before the swap": 0, "in the swap": 1}.get(moment):
            raise KeyboardInterrupt
        renames.append(self)
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", mortal)
        if moment == "writing":
            patch.setattr(torch, "save", killed)
        if moment == "after the swap":
            patch.setattr(sharded_checkpoint, "_remove", lambda path: killed() if path.exists() else None)
        with pytest.raises(KeyboardInterrupt):
            save(3.0, last)
    expected = 2 if moment in ("writing", "before the swap") else 3
    assert is_sharded_checkpoint(last)
    assert step_of(last) == expected
    save(4.0, last)  # what was left over is no obstacle
    assert step_of(last) == 4
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_the_last_checkpoint_is_found_after_a_kill(tmp_path):
    folder = tmp_path / "version_0/checkpoints"
    save(2.0, folder / "last.ckpt")
    (folder / "last.ckpt").rename(folder / "last.ckpt.old")
    assert find_checkpoint("last", trainer(tmp_path)) == str(folder / "last.ckpt")


def test_a_directory_takes_the_place_of_a_file(tmp_path):
    AtomicCheckpointIO().save_checkpoint({"global_step": 1}, tmp_path / "last.ckpt")
    save(2.0, tmp_path / "last.ckpt")
    assert step_of(tmp_path / "last.ckpt") == 2


def test_a_failed_write_leaves_the_old_checkpoint_whole(tmp_path, monkeypatch):
    save(2.0, tmp_path / "last.ckpt")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"Cannot write the checkpoint .*No space left.*resume from the last one"):
        save(3.0, tmp_path / "last.ckpt")
    assert step_of(tmp_path / "last.ckpt") == 2
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_pickles_are_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(2.0, tmp_path / "last.ckpt")
    (tmp_path / "last.ckpt/.metadata").write_bytes(pickle.dumps(Bomb()))  # where torch's other format has its table
    assert step_of(tmp_path / "last.ckpt") == 2
    (tmp_path / "last.ckpt" / META).write_bytes(pickle.dumps(Bomb(), protocol=2))
    with pytest.raises(UserError, match="damaged"):
        step_of(tmp_path / "last.ckpt")
    assert not (tmp_path / "exploded").exists()


def test_a_missing_or_cut_share_is_told_of(tmp_path):
    save(2.0, tmp_path / "last.ckpt")
    (share,) = (tmp_path / "last.ckpt").glob("*.safetensors")
    shutil.copy(share, tmp_path / "copy")
    share.write_bytes(share.read_bytes()[:50])
    with pytest.raises(UserError, match=r"last\.ckpt is damaged"):
        step_of(tmp_path / "last.ckpt")
    share.unlink()
    with pytest.raises(UserError, match=f"it lacks {share.name}"):
        step_of(tmp_path / "last.ckpt")
