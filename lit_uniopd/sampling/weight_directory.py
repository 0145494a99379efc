"""Where the student's weights wait for the servers: a directory that trainer and servers see."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lit_uniopd.errors import UserError

PREFIX = "uniopd-"
"""Of the names of weights, and so of adapters at the servers."""
MEMORY = Path("/dev/shm")


def directory_in_memory(urls: Sequence[str]) -> Path:
    """A directory for the weights of a run with servers on this machine: the same for all of its ranks.

    Raises:
        UserError: if somebody else has made it.
    """
    root = MEMORY if os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    digest = hashlib.blake2b("\n".join(sorted(urls)).encode(), digest_size=4).hexdigest()
    path = root / f"uniopd-weights-{os.getuid()}-{digest}"
    try:
        path.mkdir(mode=0o755, exist_ok=True)
        foreign = path.is_symlink() or path.stat().st_uid != os.getuid()
    except OSError:
        foreign = True
    if foreign:
        raise UserError(f"{path} is not a directory of yours; delete it, or name another as sampling.server.directory.")
    return path


def delete_weights(directory: Path, keep: Path | None = None) -> None:
    """Delete the weights in a directory, also those that a killed process left half written."""
    for path in [*directory.glob(".writing-*"), *directory.glob(f"{PREFIX}*")]:
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)
