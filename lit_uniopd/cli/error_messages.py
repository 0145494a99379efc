"""Argument errors in one sentence.

jsonargparse answers a misspelt key with two screens of usage and a tree of every type that the value could have.
"""

import difflib
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser

from lit_uniopd.cli.arguments import as_typed, may_be_null, texts_of_values
from lit_uniopd.errors import UserError
from lit_uniopd.utils.strict_yaml import read_yaml

_KEY = re.compile(r'(?:Parser key|key) "([^"]+)":?\s*')
_CLASS = re.compile(r"Problem with given class_path '([^']+)'")
_UNKNOWN_CLASS = re.compile(r"module '([^']+)' has no attribute '([^']+)'")
_NOISE = re.compile(
    r"^(Does not validate against any|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|Problem with given"
    r"|.*Type Callable\[|Expected a path but|Expected a dot import path)"
)


_TYPED: ContextVar[Mapping[str, str]] = ContextVar("typed", default=MappingProxyType({}))


class OneSentenceParser(LightningArgumentParser):
    """Raises ``UserError`` where argparse would print its usage and exit; null is null for options of classes too."""

    def parse_args(self, args: Any = None, *further: Any, **options: Any) -> Any:
        if args is None:
            args = sys.argv[1:]
        if getattr(self, "_inner_parser", False):  # of a class, called by the parser of the command line
            return super().parse_args([as_typed(arg, _TYPED.get()) for arg in args], *further, **options)
        token = _TYPED.set(texts_of_values(args))
        try:
            return super().parse_args(args, *further, **options)
        finally:
            _TYPED.reset(token)

    def _check_value_key(self, action: Any, value: Any, key: str, *further: Any, **options: Any) -> Any:
        """Refuse null for an option that has another default, which jsonargparse lets pass, and keep texts as typed."""
        check = super()._check_value_key
        if value is None and action.default is not None and not may_be_null(getattr(action, "_typehint", None)):
            return action._check_type_(value, mode=self.parser_mode)
        try:
            return check(action, value, key, *further, **options)
        except TypeError:
            typed = _TYPED.get().get(str(value))  # "Question: be short" is a mapping too
            if typed is None or isinstance(value, str):
                raise
            return check(action, typed, key, *further, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser of nested options: its message becomes part of the outer one
            super().error(message, ex)
        raise UserError(one_sentence(message)) from ex


def one_sentence(message: str) -> str:
    """The flag and the innermost complaints of an error tree, and how to see what is accepted.

    Args:
        message: of jsonargparse, over many lines.
    """
    keys = list(dict.fromkeys(_KEY.findall(message)))
    flag = f"--{'.'.join(keys)}: " if keys else ""
    if unknown := _UNKNOWN_CLASS.search(message):
        near = difflib.get_close_matches(unknown[2], dir(sys.modules.get(unknown[1])), n=1)
        meant = f" (did you mean {unknown[1]}.{near[0]}?)" if near else ""
        return f"{flag}there is no {unknown[2]} in {unknown[1]}{meant}; name a class by its whole path."
    if plain := re.search(r"Expected a dot import path string: ([A-Z]\w+)", message):
        return f"{flag}there is no {plain[1]}; name a class by its whole path, as lit_uniopd.modules.UniOPD."
    if early := re.search(r"Option '([^']+)' is not accepted before subcommand '(\w+)'", message):
        return (
            f"--{early[1].replace('.init_args', '')} stands before {early[2]}; put -c and all options behind the verb."
        )
    if file := re.search(r"unrecognized arguments: (\S+\.ya?ml)\b", message):
        return f"{file[1]} stands alone; put -c before it, as in `uniopd fit -c {file[1]}`."
    if missing := re.search(r"arguments are required: (.*)", message):
        names = " and ".join(f"--{name.partition('.')[2]}" for name in missing[1].split(", "))
        return f"There is no {names}; give a config, -c configs/quickstart.yaml say."
    classes = _CLASS.findall(message)
    lines = [_KEY.sub("", line).strip().removeprefix("- ") for line in message.splitlines()]
    complaints = dict.fromkeys(line.rstrip(".") for line in lines if line and not _NOISE.match(line))
    value = re.search(r"Given value: (?!NestedArg|Namespace|\{)(.{1,60})", message)
    problem = (
        " or ".join(complaints or {" ".join(message.split()).rstrip("."): None})
        .replace("typing.", "")
        .replace(". Got value:", ", not")
    )
    if "File does not exist" in problem:
        return f"{flag}{problem}; mend the path."
    got = f" (got {value[1].partition('. Got value')[0].strip()})" if value else ""
    command = f"fit --{keys[0]}.help={classes[0]}" if classes and keys else "fit --help"
    return f"{flag}{problem}{got}; `uniopd {'--help' if 'subcommand' in problem else command}` lists what there is."


def check_configs(argv: Sequence[str], allowed_keys: Collection[str]) -> None:
    """Refuse config files that are not YAML, or that have an unknown key.

    The parser would not say which file it is, and would overlook an empty key.

    Args:
        argv: what stands behind `uniopd`.
        allowed_keys: that a config may have.

    Raises:
        UserError: naming the file, and the line or the key.
    """
    for path in _configs(argv):
        if not path.is_file():  # the parser reports it
            continue
        settings = read_yaml(path, "--config")
        if settings is not None and not isinstance(settings, dict):
            raise UserError(f"--config {path} must hold keys and values, as the files in configs/ do.")
        for key in map(str, settings or {}):
            if key not in allowed_keys:
                near = difflib.get_close_matches(key, allowed_keys, n=1)
                meant = f" (did you mean {near[0]}?)" if near else ""
                raise UserError(
                    f"--config {path} has the key {key!r}, which there is not{meant}; `uniopd fit --help` lists what "
                    "there is."
                )


def _configs(argv: Sequence[str]) -> Iterator[Path]:
    for i, arg in enumerate(argv):
        name, equals, value = arg.partition("=")
        if name in ("-c", "--config"):
            paths = [value] if equals else argv[i + 1 : i + 2]
            yield from map(Path, paths)


_REMEDIES = {
    "gpu backend": "there is no GPU that torch can use on this machine; take -c configs/trainer/cpu.yaml",
    "gradient clipping is not supported": "use --model.gradient_clip",
    "_dataloader` must be implemented": "there are no data for this verb; take another, `uniopd validate` say",
    "gradient accumulation is not supported": "use --data.batch_size and --model.micro_batch_tokens",
}
"""Words of Lightning's messages -> the remedy that they do not name."""


def trainer_mistake(error: Exception) -> UserError:
    """Lightning's complaint about its trainer's options, in one sentence.

    Args:
        error: that it raised.
    """
    message = " ".join(str(error).split())
    first = re.split(r"(?<=[.!]) (?=[A-Z])", message)[0].rstrip(".!")
    remedy = next(
        (remedy for words, remedy in _REMEDIES.items() if words in first), "change it, see `uniopd fit --help`"
    )
    return UserError(f"--trainer: {first}; {remedy}.")


def user_error_in(error: BaseException) -> UserError | None:
    """The ``UserError`` that led to another error: jsonargparse wraps what a class raises while it is built."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__ or cause.__context__
    if cause is None and isinstance(error, MisconfigurationException):  # options that contradict each other
        return trainer_mistake(error)
    return cause
