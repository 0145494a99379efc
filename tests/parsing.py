"""The parser of `uniopd`, without a run."""

import dataclasses
import inspect
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Any, Literal, get_args, get_origin

from jsonargparse._common import parser_context
from jsonargparse._typehints import ActionTypeHint

import callbacks
import datamodules
from lit_uniopd import modules
from lit_uniopd.cli.app import UniOPDCLI, run
from lit_uniopd.cli.error_messages import OneSentenceParser, check_configs


class Built(Exception):
    """The parser is there; nothing more is wanted."""


@cache
def uniopd_parser() -> OneSentenceParser:
    """As `lit_uniopd.cli.app.run` makes it; once a process, since it takes seconds."""
    built: list[Any] = []

    class Unparsed(UniOPDCLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            built.append(parser)
            raise Built

    with suppress(Built):
        run([], Unparsed)
    return built[0]


def parsed(*arguments: str) -> Any:
    """The options of ``uniopd fit`` as a namespace, with sections ``model``, ``data`` and ``trainer``."""
    check_configs(arguments, {"model", "data", "trainer", "seed_everything", "ckpt_path"})
    return uniopd_parser().parse_args(["fit", *arguments]).fit


SHIPPED: dict[str, tuple[str, type]] = {
    f"{package.__name__}.{name}": (section, getattr(package, name))
    for section, package in (("model", modules), ("data", datamodules), ("trainer.callbacks", callbacks))
    for name in package.__all__
    if not dataclasses.is_dataclass(getattr(package, name)) and not inspect.isabstract(getattr(package, name))
}
"""Path of a class -> the section of a config that it stands in, and the class."""


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a class."""

    key: str
    type: Any
    required: bool

    @property
    def types(self) -> tuple[Any, ...]:
        return get_args(self.type) if get_origin(self.type) not in (Literal, list, dict) else (self.type,)

    @property
    def nullable(self) -> bool:
        return type(None) in self.types

    @property
    def value(self) -> Any:
        """Some value that is not null."""
        kind = next((each for each in self.types if each is not type(None)), self.type)
        if get_origin(kind) is Literal:
            return get_args(kind)[0]
        if get_origin(kind) in (list, dict):
            return get_origin(kind)()
        return {bool: True, int: 3, float: 0.5, str: "text"}.get(kind)


def options_of(cls: Any, prefix: str = "") -> Iterator[Option]:
    """What a class takes, options of its dataclasses with their keys joined by dots."""
    with parser_context(parent_parser=OneSentenceParser()):
        actions = ActionTypeHint.get_class_parser(cls)._actions
    for action in actions:
        kind = getattr(action, "_typehint", None)
        if kind is None or "help" in action.dest.split("."):
            continue
        option = Option(prefix + action.dest, kind, action.required)
        yield option
        for each in option.types:
            if dataclasses.is_dataclass(each):
                yield from options_of(each, f"{option.key}.")
