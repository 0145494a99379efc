"""The one exception that a user can act on: its message says how."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

DISK_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is too big",
}
LOST_RANK = re.compile(
    r"gloo.*(Connection (closed|reset) by peer|Broken pipe|Connection refused|[Tt]imed out|Timed out)"
    r"|Connection (closed|reset) by peer \[|NCCL.*(timeout|remote process exited)|Watchdog caught collective|"
    r"ncclRemoteError|ncclSystemError",
    re.DOTALL,
)
"""What the back ends say when another process of the run has died or does not answer."""


def first_line(error: BaseException) -> str:
    """The first line of another library's message, without a full stop, to be quoted in one of our sentences."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(" .:") if text else type(error).__name__


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it, the innermost last."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


class UserError(Exception):
    """A mistake in a flag, a config, a file or a column.

    The message is one sentence that names the flag or column and the remedy. The command line prints it without a
    traceback (unless ``--debug``). Deliberately no ``ValueError``: argument parsers swallow those while they try types.

    It is written with flags; in plain Python it names the arguments that they set: ``--data.train.path`` is
    ``train.path`` of the datamodule there, ``--model.loss.kind`` is ``loss.kind`` of the module.
    """

    on_command_line: ClassVar[bool] = False
    """Whether whoever reads it has typed flags."""

    def __str__(self) -> str:
        message = super().__str__()
        return message if UserError.on_command_line else _FLAG.sub(_argument, message)


_FLAG = re.compile(r"(?<![\w-])--(?:(model|data|trainer)\.(?:init_args\.)?|(?=ckpt_path|seed_everything))(?=[A-Za-z_])")


def _argument(match: re.Match[str]) -> str:
    return "trainer." if match[1] == "trainer" else ""


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Around appending to a file: a full disk becomes a `UserError` that names the file.

    Raises:
        UserError: if the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise UserError(
            f"Cannot write {path} any more: {DISK_FULL[error.errno]}; free some space and give the same command again: "
            "what it holds is kept."
        ) from error


def explain_failure(error: BaseException) -> UserError | None:
    """What to do after a failure that no flag has caused: a full disk, a dead process, a loss that is not a number.

    Args:
        error: what ended the run; its causes are searched too.

    Returns:
        None for any other error.
    """
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            where = f" ({cause.filename})" if cause.filename else ""
            return UserError(
                f"Cannot write any more{where}: {DISK_FULL[cause.errno]}; free some space and go on with the same "
                "command and --ckpt_path last: the last checkpoint is whole."
            )
        if isinstance(cause, RuntimeError) and LOST_RANK.search(str(cause)):
            return UserError(
                "Another process of this run has died or did not answer in time (its own output says why); start all "
                "of them again with the same command and --ckpt_path last."
            )
        if isinstance(cause, FloatingPointError):
            return UserError(
                f"{first_line(cause)}; lower the learning rate (--model.optimizer.lr), and go on from a checkpoint of "
                "before, or start anew."
            )
    return None
