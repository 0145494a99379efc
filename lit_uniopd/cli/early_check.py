"""Options that are certainly wrong, refused before torch is imported: seconds earlier than by the parser."""

import re
from collections.abc import Sequence
from typing import Any

import yaml

from lit_uniopd.cli.options_in_source import Held, Options, Plain, names_in_source, options_in_source, trainer_methods
from lit_uniopd.cli.typed_options import OURS, Typed, asks_for_help, read_line
from lit_uniopd.errors import UserError

_SYNTAX = {"class_path", "init_args", "dict_kwargs"}
_FROM_LIGHTNING = {"model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders"}


def refuse_wrong_options(argv: Sequence[str]) -> None:
    """Refuse what is certainly wrong, in the parser's words; what is not certain is left to the parser.

    Args:
        argv: what stands behind ``uniopd``, a verb of the trainer first.

    Raises:
        UserError: naming the option.
    """
    verb, *arguments = argv
    if asks_for_help(arguments):
        return
    line = read_line(arguments)
    last = line.last
    for typed in line.options:
        _refuse_unknown(typed)
        if typed in last:
            _refuse_class(typed)
            _refuse_value(typed)
    outside = [typed.option for typed in line.options if typed.section not in OURS]
    known = _outer_options(verb) if outside else []
    for option in outside if known else ():
        section = re.match(r"trainer\.[^.+]+|[^.+]+", option)
        if section and section[0] not in known:
            raise _unknown_option(option, option, [*known, *options_of_classes(arguments)], help_of="help")


def options_of_classes(arguments: Sequence[str]) -> list[str]:
    """The options of the classes that are named, as far as these are ours, behind their sections.

    Args:
        arguments: behind the verb.
    """
    options = read_line(arguments).options
    classes = options[-1].classes if options else {}
    return [f"{section}.{key}" for section, path in classes.items() for key in _options_of(path) or ()]


def _refuse_unknown(typed: Typed) -> None:
    unknown = _looked_up(typed.classes.get(typed.section), typed.key) if typed.key else None
    if isinstance(unknown, tuple):
        raise _unknown_option(typed.option, *unknown, help_of=_help_of(typed))


def _refuse_class(typed: Typed) -> None:
    module, _, name = (typed.classes.get(typed.option) or "").rpartition(".")
    known = names_in_source(module) if module == OURS.get(typed.option) else []
    if known and name not in known:
        from lit_uniopd.cli.parse_errors import misspelt_class  # which imports jsonargparse

        if misspelt := misspelt_class(typed.option, module, name, known):
            raise UserError(misspelt)


def _refuse_value(typed: Typed) -> None:
    if typed.section == "trainer":
        option: Any = trainer_methods().get("__init__", {}).get(typed.key)
    else:
        option = _looked_up(typed.classes.get(typed.section), typed.key)
    if not isinstance(option, Plain):
        return
    from jsonargparse import ArgumentError, ArgumentParser

    from lit_uniopd.cli.arguments import configure_parsing, load_argument
    from lit_uniopd.cli.parse_errors import complaints_of, wrong_value

    configure_parsing()
    try:
        if not isinstance(load_argument(typed.value), str | int | float):  # what null or a list is, depends on more
            return
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument(f"--{typed.key}", type=option.type)
        parser.parse_args([f"--{typed.key}={typed.value}"])
    except yaml.YAMLError:
        return
    except ArgumentError as error:
        if problem := wrong_value(typed.option, complaints_of(str(error)), where="", help_of=_help_of(typed)):
            raise UserError(problem) from error


def _help_of(typed: Typed) -> str:
    return f"{typed.section}.help={typed.classes[typed.section]}" if typed.section in OURS else "help"


def _unknown_option(flag: str, option: str, known: Sequence[str], help_of: str) -> UserError:
    from lit_uniopd.cli.parse_errors import listed_by, unknown_option

    return UserError(f"{unknown_option(flag, option, known)}; {listed_by(help_of)}")


def _options_of(path: str | None) -> Options | None:
    return options_in_source(*path.rsplit(".", 1)) if path else None


def _looked_up(path: str | None, key: str) -> tuple[str, list[str]] | Plain | None:
    """What an option of a class holds, if that is plain.

    Returns:
        The end of the option that the class, or a dataclass on the way to it, does not know, and all that this knows,
        if there is no such option; None if only the parser knows.
    """
    options, names = _options_of(path), key.removesuffix("+").split(".")
    if options is None or _SYNTAX & {*names}:
        return None
    there = next((i for i in range(len(names), 0, -1) if ".".join(names[:i]) in options), 0)
    held = options[".".join(names[:there])] if there else None
    if not there or (isinstance(held, Held) and held.plain and there < len(names)):
        return key, [*options]
    if not isinstance(held, Held):
        return held if there == len(names) and not key.endswith("+") else None
    below = ".".join(key.split(".")[there + held.by_name :])
    return _looked_up(f"{held.module}.{held.name}", below) if below else None


def _outer_options(verb: str) -> list[str]:
    """Options of a verb as the parser has them, but those of classes; empty if Lightning hides them."""
    methods = trainer_methods()
    if not methods.keys() >= {"__init__", verb}:
        return []
    trainer = ["trainer", *(f"trainer.{each}" for each in methods["__init__"])]
    of_verb = [each for each in methods[verb] if each not in _FROM_LIGHTNING]
    return ["config", "print_config", "seed_everything", *trainer, "model", "data", "allow_oom", *of_verb]
