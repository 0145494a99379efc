"""Loggers that cannot be built, in one sentence: a package that is missing, or settings that it refuses."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from lit_uniopd.errors import UserError, causes

_LOGGER = "lightning.pytorch.loggers.logger.Logger"
_CLASS = re.compile(r"class_path[=:]? ?'([\w.]+)'")
_MISSING = re.compile(r"No module named '([^'.]+)|pip install (?:-U )?'?([^'`\s]+)")
_REMEDIES = {
    "MLFLOW_ALLOW_FILE_STORE": "set MLFLOW_ALLOW_FILE_STORE=true in the environment, or name a database by "
    "--trainer.logger.tracking_uri",
}
"""Words of a logger's message -> the remedy."""


@contextmanager
def logger_mistakes_named() -> Iterator[None]:
    """Around reading or building the classes of a config.

    Raises:
        UserError: if the logger cannot be built.
    """
    try:
        yield
    except Exception as error:
        mistake = logger_mistake(error)
        if mistake is None:
            raise
        raise mistake from error


def logger_mistake(error: BaseException) -> UserError | None:
    """What is wrong with ``trainer.logger``; None: the error is of something else.

    Args:
        error: what the parser raised while it read or built the classes of a config.
    """
    messages = "\n".join(str(link) for link in causes(error))
    if _LOGGER not in messages:
        return None
    missing = _MISSING.search(messages)  # among several loggers the cause is lost, its text is not
    names = _CLASS.findall(messages)
    if missing:
        name = [*names[:1], *_CLASS.findall(messages[: missing.start()])][-1]
        package = missing[1] or missing[2]
        return UserError(f"--trainer.logger {name} needs a package; install it: pip install '{package}'.")
    *_, cause = causes(error)
    if isinstance(cause, UserError | AttributeError) or not names:
        return None
    text = " ".join(str(cause).split())
    first = re.split(r"(?<=[.!]) (?=[A-Z])", text)[0].rstrip(".!")
    remedy = next(
        (remedy for words, remedy in _REMEDIES.items() if words in text),
        f"`uniopd fit --trainer.logger.help={names[0]}` lists what it takes",
    )
    return UserError(f"--trainer.logger {names[0]}: {first}; {remedy}.")
