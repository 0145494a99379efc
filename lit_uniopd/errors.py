"""The one exception that means: the user can mend this, and the message says how."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EFBIG: "the file is too big"}
LOST_RANK = re.compile(
    r"gloo.*(Connection (closed|reset) by peer|Broken pipe|Connection refused|[Tt]imed out|Timed out)"
    r"|Connection (closed|reset) by peer \[|NCCL.*(timeout|remote process exited)|Watchdog caught collective|"
    r"ncclRemoteError|ncclSystemError",
    re.DOTALL,
)
"""What the back ends say when another process of the run has died or does not answer."""


def first_line(error: BaseException) -> str:
    """What another library complains about, as a part of one of our sentences: its first line, without a full stop."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(" .:") if text else type(error).__name__


class UserError(Exception):
    """A mistake in a flag, a config, a file or a column.

    The message is one sentence that names the flag or column and the remedy. The command line prints it without a
    traceback (unless ``--debug``). Deliberately no ``ValueError``: argument parsers swallow those while they try types.
    """


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """While a file is appended to.

    Raises:
        UserError: if there is no room for what is written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UserError(
            f"Cannot write {path} any more: {FULL[error.errno]}; free some space and give the same command again: what "
            "it holds is kept."
        ) from error


def failure_of_the_machine(error: BaseException) -> UserError | None:
    """What a full disk, a dead process or numbers that are none mean for the user, where it was no mistake of a flag.

    Args:
        error: what ended the run, with what led to it.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in FULL:
            where = f" ({seen.filename})" if seen.filename else ""
            return UserError(
                f"Cannot write any more{where}: {FULL[seen.errno]}; free some space and go on with the same command "
                "and --ckpt_path last: the last checkpoint is whole."
            )
        if isinstance(seen, RuntimeError) and LOST_RANK.search(str(seen)):
            return UserError(
                "Another process of this run has died or did not answer in time (its own output says why); start all "
                "of them again with the same command and --ckpt_path last."
            )
        if isinstance(seen, FloatingPointError):
            return UserError(
                f"{first_line(seen)}; lower the learning rate (--model.optimizer.lr), and go on from a checkpoint of "
                "before, or start anew."
            )
        seen = seen.__cause__ or seen.__context__
    return None
