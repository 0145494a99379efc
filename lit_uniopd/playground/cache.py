"""The playground's cache: results are built once, beside their target, and renamed, so that they are never partial."""

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


def cached(
    target: Path, recipe: dict[str, Any], required: Sequence[str], make: Callable[[Path], dict[str, Any]]
) -> Path:
    """The directory ``target``, built by ``make`` unless one of the same recipe exists.

    A killed build leaves no partial directory; of two builds at once, the result of one survives complete.

    Args:
        target: the directory.
        recipe: what it is built from; a directory of another recipe is replaced.
        required: names of the files and model directories that it must have.
        make: fills a directory and returns notes, which are stored beside the recipe.
    """
    if _is_current(target, recipe, required):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        with quiet_threads():
            notes = make(scratch)
        (scratch / "recipe.json").write_text(json.dumps({"recipe": recipe, **notes}, indent=2) + "\n")
        _install(scratch, target, recipe, required)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def once(target: Path, make: Callable[[Path], None]) -> Path:
    """The file or directory ``target``, built by ``make`` unless it exists."""
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=target.parent))
    try:
        with quiet_threads():
            make(scratch / target.name)
        with suppress(OSError):  # another process was faster; its result is the same
            os.rename(scratch / target.name, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _install(scratch: Path, target: Path, recipe: dict[str, Any], required: Sequence[str]) -> None:
    if _is_current(target, recipe, required):  # another process was faster, and may already be reading it
        return
    shutil.rmtree(target, ignore_errors=True)
    try:
        os.rename(scratch, target)
    except OSError:
        if not _is_current(target, recipe, required):
            raise


def _is_current(target: Path, recipe: dict[str, Any], required: Sequence[str]) -> bool:
    files = [name if "." in name else f"{name}/model.safetensors" for name in required]
    if not all((target / file).exists() for file in files):
        return False
    try:
        return json.loads((target / "recipe.json").read_text())["recipe"] == recipe
    except (OSError, ValueError, KeyError):
        return False


@contextmanager
def quiet_threads() -> Iterator[None]:
    """Use the fastest thread count and no progress bars for saving tiny files; restore both on leaving."""
    threads, bars = torch.get_num_threads(), transformers_logging.is_progress_bar_enabled()
    torch.set_num_threads(thread_probe())
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if bars:
            transformers_logging.enable_progress_bar()
