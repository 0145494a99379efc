"""What the playground builds is written beside its target and renamed: whole or not there, and built once."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from lit_uniopd.playground.threads import thread_probe


def cached(target: Path, wanted: dict[str, Any], parts: Sequence[str], make: Callable[[Path], dict[str, Any]]) -> Path:
    """A directory made by ``make``, or found made with the same recipe.

    A killed build leaves no half directory, and of two builds at once one wins whole.

    Args:
        target: where it is.
        wanted: the recipe; a directory of another one is replaced.
        parts: files, and directories of models, that must be in it.
        make: fills a directory and returns notes, which are kept beside the recipe.
    """
    if _is_current(target, wanted, parts):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        with quiet_threads():
            notes = make(scratch)
        (scratch / "recipe.json").write_text(json.dumps({"recipe": wanted, **notes}, indent=2) + "\n")
        _install(scratch, target, wanted, parts)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def once(target: Path, make: Callable[[Path], None]) -> Path:
    """A file or directory made by ``make``, or found made."""
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=target.parent))
    try:
        with quiet_threads():
            make(scratch / target.name)
        with suppress(OSError):  # another process was faster; what it made is the same
            os.rename(scratch / target.name, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _install(scratch: Path, target: Path, wanted: dict[str, Any], parts: Sequence[str]) -> None:
    if _is_current(target, wanted, parts):  # another process was faster and may be reading it; ours would be the same
        return
    shutil.rmtree(target, ignore_errors=True)
    try:
        os.rename(scratch, target)
    except OSError:
        if not _is_current(target, wanted, parts):
            raise


def _is_current(target: Path, wanted: dict[str, Any], parts: Sequence[str]) -> bool:
    files = [part if "." in part else f"{part}/model.safetensors" for part in parts]
    if not all((target / file).exists() for file in files):
        return False
    try:
        return json.loads((target / "recipe.json").read_text())["recipe"] == wanted
    except (OSError, ValueError, KeyError):
        return False


@contextmanager
def quiet_threads() -> Iterator[None]:
    """The fastest thread count and no bars for saving tiny files, both as before on leaving."""
    threads, bars = torch.get_num_threads(), transformers_logging.is_progress_bar_enabled()
    torch.set_num_threads(thread_probe())
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if bars:
            transformers_logging.enable_progress_bar()
