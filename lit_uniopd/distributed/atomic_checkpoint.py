"""Checkpoints that are written completely or not at all, and checked before they are loaded."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lit_uniopd.distributed.sharded_checkpoint import LOAD_ERRORS, load_sharded
from lit_uniopd.errors import UserError
from lit_uniopd.utils.checkpoint_directory import META, is_sharded_checkpoint

RUN_KEYS = ("state_dict", "loops", "policy_path")
"""Keys that every checkpoint of a run has."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a file beside the target and renames it; executes no pickles when it reads.

    Lightning's own writer fills a file in the system's temporary directory and moves it; to another file system that is
    a copy, and a process killed during it leaves half a ``last.ckpt`` in place of the good one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
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
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            raise UserError(
                f"Cannot write the checkpoint {target} ({str(cause).splitlines()[0]}); free some space there and "
                "resume from the last one, which is whole."
            ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, loc: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read one file, or all shards of a directory that another strategy wrote."""
        if is_sharded_checkpoint(Path(path)):
            return load_sharded(Path(path))
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        check_checkpoint(Path(path), contents=True)
        return torch.load(path, map_location=map_location, weights_only=True)


def check_checkpoint(path: Path, *, flag: str = "--ckpt_path", contents: bool = False) -> None:
    """Refuse a file that is no complete checkpoint of a run. Executes nothing that the file holds.

    Args:
        path: of the file.
        flag: the option that it came from.
        contents: also read every byte and compare check sums; else read the table of contents only.

    Raises:
        UserError: naming the file, what is wrong, and another checkpoint to use.
    """
    problem = _problem(path, contents)
    if problem is None:
        return
    version = path.absolute().parents[1]
    folders = version.parent.glob("version_*") if version.name.startswith("version_") else [path.parent]
    candidates = (file for file in newest_first("*.ckpt", *folders) if file.absolute() != path.absolute())
    intact = next((file for file in candidates if _problem(file, contents) is None), None)
    remedy = (
        f"the newest whole one is --ckpt_path {intact}"
        if intact is not None
        else "start anew without it, no other one lies beside it"
    )
    raise UserError(f"{flag} {path} {problem}; {remedy}.")


def newest_first(pattern: str, *roots: Path) -> list[Path]:
    """Files below directories, by modification time."""
    files = {file for root in roots for file in root.glob(f"**/{pattern}")}
    return sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)


def _problem(path: Path, contents: bool) -> str | None:
    """What is wrong with a file, in words for a message; None if nothing is."""
    if not path.is_file():  # a sharded checkpoint is a directory
        return None
    if path.stat().st_size == 0:
        return "is empty"
    if not zipfile.is_zipfile(path):
        return "is damaged (cut off), or no checkpoint at all"
    try:
        # Of a big file this reads the table of contents only.
        checkpoint = torch.load(path, map_location="meta", mmap=True, weights_only=True)
        # torch compares no check sums: a flipped bit would go unnoticed.
        with zipfile.ZipFile(path) as file:
            broken = file.testzip() if contents else None
    except pickle.UnpicklingError:
        return "holds objects that only executing its pickle would bring back, so it was not loaded"
    except (OSError, RuntimeError, ValueError, LookupError, EOFError, zipfile.BadZipFile) as error:
        return f"is damaged ({str(error).splitlines()[0][:100] if str(error) else type(error).__name__})"
    if broken is not None:
        return f"is damaged (wrong check sum of {broken})"
    missing = [key for key in RUN_KEYS if not isinstance(checkpoint, dict) or key not in checkpoint]
    return f"is no checkpoint of a run of `uniopd fit`: it has no {missing[0]!r}" if missing else None


def read_entry(path: Path, key: str) -> Any:
    """One entry of a checkpoint, file or directory, without reading its tensors; None if there is none."""
    file = path / META if is_sharded_checkpoint(path) else path
    try:
        return torch.load(file, map_location="meta", mmap=True, weights_only=True).get(key)
    except LOAD_ERRORS:  # loading it will say what is wrong
        return None
