"""Which files a path of data means; none is read."""

import bz2
import gzip
import lzma
import os
from collections.abc import Callable, Mapping
from glob import glob
from pathlib import Path
from typing import Any

from lit_uniopd.errors import UserError
from lit_uniopd.utils.paths import has_scheme

JSON_KINDS = (".jsonl", ".json")
ARROW_KINDS = (".parquet", ".arrow", ".csv", ".tsv")
KINDS = (*JSON_KINDS, *ARROW_KINDS)
PACKED: Mapping[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
"""Ending of a compressed JSON or JSONL file -> what opens it."""


def is_hub_dataset(path: str) -> bool:
    """Whether a path names a data set on the hub: it is not a file and does not look like one."""
    looks_like_file = path.startswith((".", "/", "~")) or any(c in path for c in "*?[")
    looks_like_file |= path.endswith((*KINDS, *PACKED))
    return not (has_scheme(path) or looks_like_file or Path(path).exists())


def matching_paths(path: str, flag: str) -> list[Path]:
    """The files and folders that a path or a glob stands for.

    Args:
        path: neither of a hub data set nor of the playground.
        flag: the option that holds the path (``--data.train``), for messages.

    Raises:
        UserError: if there are none.
    """
    expanded = os.path.expanduser(path)
    # First as a file: a name may contain brackets without being a pattern.
    names = [expanded] if Path(expanded).exists() else sorted(glob(expanded, recursive=True))
    if not names:
        raise UserError(f"{flag}.path {path} matches no file (looked from {Path.cwd()}); mend the path.")
    return [Path(name) for name in names]
