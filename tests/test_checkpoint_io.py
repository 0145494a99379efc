from pathlib import Path

import pytest
import torch

from lit_uniopd.checkpoint_io import AtomicCheckpointIO
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


def test_a_process_killed_while_writing_leaves_the_old_checkpoint_whole(tmp_path, monkeypatch):
    """The kill is an exception that no clean-up code sees: KeyboardInterrupt between write and rename."""
    last = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 3}, last)

    def killed(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint({"step": 4}, last)
    assert torch.load(last, weights_only=True) == {"step": 3}
