"""Whether the Hugging Face hub answers, asked once: its client would wait for it at every file."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_session

TIMEOUT_S = 5.0


def on_hub(path: str) -> bool:
    """Whether a path of a model or a data set is neither a local file nor a part of the playground."""
    return bool(path) and not (path.startswith(("playground:", ".", "/", "~")) or Path(path).exists())


def is_reachable() -> bool:
    """Whether the hub answers at all; what it answers does not matter."""
    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT_S)
    except Exception:  # that of one of three HTTP clients, depending on the release
        return False
    return True


@contextmanager
def offline_if_unreachable(paths: Iterable[str]) -> Iterator[None]:
    """Read from the cache alone, if the hub is needed and out of reach; its client tries six times per file.

    Args:
        paths: of all models and tables of a run.
    """
    if constants.HF_HUB_OFFLINE or not any(map(on_hub, paths)) or is_reachable():
        yield
        return
    switches: list[Any] = [constants]
    switches += [module for module in [sys.modules.get("datasets.config")] if module is not None]
    for switch in switches:
        switch.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for switch in switches:
            switch.HF_HUB_OFFLINE = False
