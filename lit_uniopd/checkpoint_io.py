"""Checkpoints that are whole or not there, wherever the process dies."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH

from lit_uniopd.errors import UserError
from lit_uniopd.sharded_checkpoint import is_sharded_checkpoint, load_sharded


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames.

    Lightning's own writer fills a file in the system's temporary directory and moves it; to another file system that is
    a copy, and a process killed in the middle leaves half a ``last.ckpt`` in place of the good one.
    """

    def load_checkpoint(self, path: _PATH, *args: Any, **options: Any) -> dict[str, Any]:
        """Of one file, or whole from the shards of another strategy."""
        if is_sharded_checkpoint(Path(path)):
            return load_sharded(Path(path))
        return super().load_checkpoint(path, *args, **options)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        if "://" in str(path):  # object stores publish a file when it is complete
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.partial")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            partial.unlink(missing_ok=True)
            raise UserError(
                f"Cannot write the checkpoint {target} ({str(error).splitlines()[0]}); free some space there and "
                "resume from the last one, which is whole."
            ) from error
