"""Options that there are certainly not, refused before torch is imported: seconds earlier than by the parser."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_uniopd.cli.options_in_source import Options, options_in_source, trainer_methods
from lit_uniopd.cli.renamed import MOVED
from lit_uniopd.errors import UserError
from lit_uniopd.utils.strict_yaml import read_yaml

_OURS = {"model": "lit_uniopd.modules.", "data": "datamodules."}
"""Section -> how the path of a class begins whose options are read here."""
_OPTION = re.compile(r"-c|--\w[\w-]*(\.[\w-]+)*\+?")
_NO_VALUE = re.compile(r"-(?!\d+$|\d*\.\d+$)")
"""What argparse takes for no value: all that begins as an option does and is no number."""
_HELP = re.compile(r"(-h|--((.+\.)?help|print_config|print_completion))(=.*)?", re.DOTALL)
_SYNTAX = {"class_path", "init_args", "dict_kwargs"}
_FROM_LIGHTNING = {"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders"}

Classes = Mapping[str, str | None]
"""Section -> path of the class of ours that it names; None: of another, or it is not certain."""


def refuse_unknown_options(argv: Sequence[str]) -> None:
    """Refuse an option that is certainly none, in the parser's words; what is not certain is left to the parser.

    Args:
        argv: what stands behind ``uniopd``, a verb of the trainer first.

    Raises:
        UserError: naming the option.
    """
    if any(_HELP.fullmatch(arg) for arg in argv):
        return
    outside: list[str] = []
    verb, *arguments = argv
    for option, classes in _typed(arguments):
        section, _, key = option.partition(".")
        if section not in _OURS:
            outside.append(option)
        elif key and (unknown := _unknown(classes.get(section), key)):
            raise _refusal(option, *unknown, help_of=f"{section}.help={classes[section]}")
    known = _outer_options(verb) if outside else []
    for option in outside if known else ():
        section = re.match(r"trainer\.[^.+]+|[^.+]+", option)
        if section and section[0] not in known:
            raise _refusal(option, option, [*known, *options_of_classes(arguments)], help_of="help")


def options_of_classes(arguments: Sequence[str]) -> list[str]:
    """The options of the classes that are named, as far as these are ours, behind their sections.

    Args:
        arguments: behind the verb.
    """
    *_, (_, classes) = [("", dict[str, str | None]()), *_typed(arguments)]
    return [f"{section}.{key}" for section, path in classes.items() for key in _options_of(path) or ()]


def _refusal(flag: str, option: str, known: Sequence[str], help_of: str) -> UserError:
    from lit_uniopd.cli.parse_errors import listed_by, unknown_option  # which imports jsonargparse

    return UserError(f"{unknown_option(flag, option, known)}; {listed_by(help_of)}")


def _typed(arguments: Sequence[str]) -> Iterator[tuple[str, Classes]]:
    """Each option, and the classes that are named up to there; ends before what might be read in another way."""
    classes: dict[str, str | None] = {}
    remaining = list(arguments)
    while remaining:
        flag, equals, value = remaining.pop(0).partition("=")
        if flag == "--allow_oom":  # the one that takes no value
            continue
        if not _OPTION.fullmatch(flag) or not (equals or (remaining and not _NO_VALUE.match(remaining[0]))):
            return
        value = value if equals else remaining.pop(0)
        option = "config" if flag == "-c" else flag.removeprefix("--")
        section, _, key = option.partition(".")
        if option == "config":
            classes |= _classes_in(value, classes)
        elif section in _OURS and key in ("", "class_path"):
            classes[section] = _class_path(section, value)
        yield option, {**classes}


def _classes_in(config: str, before: Classes) -> Classes:
    settings: Any = read_yaml(Path(config), "--config") if os.path.isfile(config) else config  # or the text of one
    if not isinstance(settings, dict):
        return before if settings is None else dict.fromkeys(_OURS)
    classes = {}
    for section in settings.keys() & _OURS:
        setting = settings[section]
        path = setting.get("class_path", before.get(section)) if isinstance(setting, dict) else setting
        classes[section] = _class_path(section, path)
    return classes


def _class_path(section: str, setting: Any) -> str | None:
    module, _, name = str(setting).rpartition(".")
    path = f"{MOVED.get(module, module)}.{name}"
    return path if path.startswith(_OURS[section]) else None


def _options_of(path: str | None) -> Options | None:
    return options_in_source(*path.rsplit(".", 1)) if path else None


def _unknown(path: str | None, key: str) -> tuple[str, list[str]] | None:
    """The end of an option that its class, or a dataclass on the way to it, does not know, and all that this knows."""
    options, names = _options_of(path), key.removesuffix("+").split(".")
    if options is None or _SYNTAX & {*names}:
        return None
    there = next((i for i in range(len(names), 0, -1) if ".".join(names[:i]) in options), 0)
    held = options[".".join(names[:there])] if there else None
    if not there or (held and held.plain and there < len(names)):
        return key, [*options]
    below = ".".join(key.split(".")[there + held.by_name :]) if held else ""
    return _unknown(f"{held.module}.{held.name}", below) if held and below else None


def _outer_options(verb: str) -> list[str]:
    """Options of a verb as the parser has them, but those of classes; empty if Lightning hides them."""
    methods = trainer_methods()
    if not methods.keys() >= {"__init__", verb}:
        return []
    trainer = ["trainer", *(f"trainer.{each}" for each in methods["__init__"])]
    of_verb = [each for each in methods[verb] if each not in _FROM_LIGHTNING]
    return ["config", "print_config", "seed_everything", *trainer, "model", "data", "allow_oom", *of_verb]
