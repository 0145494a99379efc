"""What was typed behind a verb, as far as it can be read without the parser."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_uniopd.cli.renamed import MOVED
from lit_uniopd.utils.strict_yaml import read_yaml

OURS = {"model": "lit_uniopd.modules", "data": "datamodules"}
"""Section -> the package of the classes of ours that it takes."""
_OPTION = re.compile(r"-c|--\w[\w-]*(\.[\w-]+)*\+?")
_NO_VALUE = re.compile(r"-(?!\d+$|\d*\.\d+$)")
"""What argparse takes for no value: all that begins as an option does and is no number."""
_HELP = re.compile(r"(-h|--((.+\.)?help|print_config|print_completion))(=.*)?", re.DOTALL)

Classes = Mapping[str, str | None]
"""Section -> path of the class of ours that it names; None: of another, or it is not certain."""


@dataclass(frozen=True, slots=True)
class Typed:
    """An option with its value."""

    option: str
    """Without dashes; ``config`` for ``-c``."""
    value: str
    classes: Classes
    """That are named up to here."""
    settings: Any = None
    """Of a config: what is in the file."""

    @property
    def section(self) -> str:
        return self.option.partition(".")[0]

    @property
    def key(self) -> str:
        """The option without its section; empty if it is the section itself."""
        return self.option.partition(".")[2]

    @property
    def sets(self) -> str:
        """The option whose value it changes."""
        return self.option.removesuffix("+").replace(".init_args", "")


@dataclass(frozen=True, slots=True)
class Line:
    """The options behind a verb, in their order."""

    options: Sequence[Typed]
    """Up to what might be read in another way."""
    complete: bool
    """Whether nothing stands behind them."""

    @property
    def last(self) -> Sequence[Typed]:
        """The options that none behind them could override; none if that cannot be told."""
        last: list[Typed] = []
        for typed in self.options if self.complete else ():
            kept = [each for each in last if not f"{each.sets}.".startswith(f"{typed.sets}.")]
            last = [typed] if typed.option == "config" else [*kept, typed]
        return last


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether something is to be printed, and nothing to be run."""
    return any(map(_HELP.fullmatch, arguments))


def read_line(arguments: Sequence[str]) -> Line:
    """The options, each with the classes that are named up to there.

    Args:
        arguments: behind the verb.

    Raises:
        UserError: if a config is not YAML.
    """
    classes: dict[str, str | None] = {}
    options: list[Typed] = []
    remaining = list(arguments)
    while remaining:
        flag, equals, value = remaining.pop(0).partition("=")
        if flag == "--allow_oom":  # the one that takes no value
            continue
        if not _OPTION.fullmatch(flag) or not (equals or (remaining and not _NO_VALUE.match(remaining[0]))):
            return Line(options, complete=False)
        value = value if equals else remaining.pop(0)
        option = "config" if flag == "-c" else flag.removeprefix("--")
        section, _, key = option.partition(".")
        settings = None
        if option == "config":
            settings = read_yaml(Path(value), "--config") if os.path.isfile(value) else value  # or the text of one
            classes |= _classes_in(settings, classes)
        elif section in OURS and key in ("", "class_path"):
            classes[section] = _class_path(section, value)
        options.append(Typed(option, value, {**classes}, settings))
    return Line(options, complete=True)


def _classes_in(settings: Any, before: Classes) -> Classes:
    if not isinstance(settings, dict):
        return before if settings is None else dict.fromkeys(OURS)
    classes = {}
    for section in settings.keys() & OURS:
        setting = settings[section]
        path = setting.get("class_path", before.get(section)) if isinstance(setting, dict) else setting
        classes[section] = _class_path(section, path)
    return classes


def _class_path(section: str, setting: Any) -> str | None:
    module, _, name = str(setting).rpartition(".")
    path = f"{MOVED.get(module, module)}.{name}"
    return path if path.startswith(f"{OURS[section]}.") else None
