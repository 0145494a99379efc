"""Argument errors in one sentence.

jsonargparse answers a misspelt key with two screens of usage and a tree of every type that the value could have.
"""

import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.cli import LightningArgumentParser

from lit_uniopd.cli.arguments import as_typed, may_be_null, one_by_one, texts_of_values
from lit_uniopd.cli.early_check import options_of_classes
from lit_uniopd.cli.parse_errors import sentence
from lit_uniopd.errors import UserError, causes
from lit_uniopd.utils.near_names import did_you_mean
from lit_uniopd.utils.strict_yaml import read_yaml

_TYPED: ContextVar[Mapping[str, str]] = ContextVar("typed", default=MappingProxyType({}))


class OneSentenceParser(LightningArgumentParser):
    """Raises ``UserError`` where argparse would print its usage and exit; null is null for options of classes too.

    Options are written out: what is the beginning of one today may be that of two tomorrow, or a misspelt other.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def parse_args(self, args: Any = None, *further: Any, **options: Any) -> Any:
        if args is None:
            args = sys.argv[1:]
        if getattr(self, "_inner_parser", False):  # of a class, called by the parser of the command line
            return super().parse_args([as_typed(arg, _TYPED.get()) for arg in args], *further, **options)
        args = one_by_one(args)
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
        files = (path for path in _configs(getattr(self, "args", ())) if "\n" not in str(path))  # or a config's text
        configs = {str(path): read_yaml(path) for path in files if path.is_file()}
        parser = getattr(ex, "subcommand_parser", self)
        known = [action.dest for action in parser._actions if "help" not in action.dest.split(".")]
        known += options_of_classes(getattr(self, "args", ()))
        if valueless := re.search(r"argument ([-\w./]+): expected one argument", message):
            name = valueless[1].rpartition("/")[2]
            bare = (arg for arg in getattr(self, "args", ()) if re.match(rf"{name}[\w.]*$", arg))
            message = f"{next(bare, name)} has no value"
        raise UserError(one_sentence(message, known, configs)) from ex


def one_sentence(message: str, known: Collection[str] = (), configs: Mapping[str, Any] = MappingProxyType({})) -> str:
    """What is wrong with which flag, and how to see what is accepted.

    Args:
        message: of jsonargparse, over many lines.
        known: options of the parser.
        configs: file -> its content, of the config files that were given.
    """
    if early := re.search(r"Option '([^']+)' is not accepted before subcommand '(\w+)'", message):
        return (
            f"--{early[1].replace('.init_args', '')} stands before {early[2]}; put -c and all options behind the verb."
        )
    if file := re.search(r"unrecognized arguments: (\S+\.ya?ml)\b", message):
        return f"{file[1]} stands alone; put -c before it, as in `uniopd fit -c {file[1]}`."
    if alone := re.search(r"unrecognized arguments: ([^-\s]\S*)", message):
        return f"{alone[1]} stands alone; put the option that it is for before it, see `uniopd fit --help`."
    if missing := re.search(r"arguments are required: (.*)", message):
        names = " and ".join(f"--{name.partition('.')[2]}" for name in missing[1].split(", "))
        return f"There is no {names}; give a config, -c configs/quickstart.yaml say."
    if message.endswith(" has no value"):
        return f"{message}; write one behind it."
    if "subcommand" in message and "does not accept" not in message:
        return f"{' '.join(message.split()).rstrip('.')}; `uniopd --help` lists what there is."
    if path := re.search(r'"config": (File does not exist.*)', message):
        return f"--config: {path[1].rstrip('.')}; mend the path."
    return sentence(message, known, configs)


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
                raise UserError(
                    f"--config {path} has the key {key!r}, which there is not{did_you_mean(key, allowed_keys)}; "
                    "`uniopd fit --help` lists what there is."
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
    mistake = next((cause for cause in causes(error) if isinstance(cause, UserError)), None)
    if mistake is None and isinstance(error, MisconfigurationException):  # options that contradict each other
        return trainer_mistake(error)
    return mistake
