"""Argument errors in one sentence.

jsonargparse reports a misspelt key as two screens of usage and a tree of every type that the value might have had.
"""

import re
from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from lit_uniopd.errors import UserError

_KEY = re.compile(r'(?:Parser key|key) "([^"]+)":?\s*')
_CLASS = re.compile(r"Problem with given class_path '([^']+)'")
_NOISE = re.compile(
    r"^(Does not validate against any|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|Problem with given)"
)


class OneSentenceParser(LightningArgumentParser):
    """Raises ``UserError`` where argparse would print its usage and exit."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser of nested options: its message becomes part of the outer one
            super().error(message, ex)
        raise UserError(one_sentence(message)) from ex


def one_sentence(message: str) -> str:
    """The flag and the innermost complaints of an error tree, and how to see what is accepted.

    Args:
        message: what jsonargparse says, over many lines.
    """
    keys = list(dict.fromkeys(_KEY.findall(message)))
    classes = _CLASS.findall(message)
    lines = [_KEY.sub("", line).strip().removeprefix("- ") for line in message.splitlines()]
    complaints = dict.fromkeys(line.rstrip(".") for line in lines if line and not _NOISE.match(line))
    given = re.search(r"Given value: (?!NestedArg|Namespace|\{)(.{1,60})", message)
    what = " or ".join(complaints).replace("typing.", "")
    flag = f"--{'.'.join(keys)}: " if keys else ""
    got = f" (got {given[1].strip()})" if given else ""
    command = f"--{keys[0]}.help={classes[0]}" if classes and keys else "--help"
    return f"{flag}{what}{got}; `uniopd fit {command}` lists what there is."


def user_error_in(error: BaseException) -> UserError | None:
    """The ``UserError`` that led to another error: jsonargparse wraps what a class raises while it is built."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, UserError):
        seen = seen.__cause__ or seen.__context__
    return seen
