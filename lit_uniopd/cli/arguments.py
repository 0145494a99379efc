"""What a word of the command line, or of a config, stands for."""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, get_args

import docstring_parser
import yaml
from jsonargparse import set_loader, set_parsing_settings

from lit_uniopd.utils.strict_yaml import StrictLoader, parse_yaml


class ArgumentLoader(StrictLoader):
    """Reads `None` as null too: nobody means a text by it."""


ArgumentLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"None$"), ["N"])


def load_argument(text: str) -> Any:
    """The value of an argument, or a whole config.

    Raises:
        UserError: if a key is written twice in one mapping.
        yaml.YAMLError: if it is not YAML, that is a text.
    """
    value = parse_yaml(text, "A value", loader=ArgumentLoader)
    words = isinstance(value, dict) and all(item is None for item in value.values())
    if words and value and (":" not in text or re.fullmatch(r"[^\n:]+:", text.strip())):  # {image}, or Answer:
        return text
    return value


def configure_parsing() -> None:
    """Make jsonargparse read YAML as we do, and take the string beneath a dataclass field for its help."""
    set_loader("yaml", load_argument, (yaml.YAMLError,))
    set_parsing_settings(docstring_parse_attribute_docstrings=True, add_print_completion_argument=True)
    if not hasattr(docstring_parser.parse_from_object, "cache_info"):
        # jsonargparse asks for a class again in each of the four commands and for each option that takes it, and every
        # time its source is read and parsed: two thirds of the time that a parser took, nine tenths of a completion's.
        docstring_parser.parse_from_object = functools.cache(docstring_parser.parse_from_object)


def one_by_one(argv: Sequence[str]) -> list[str]:
    """The arguments, with a list behind ``+=`` appended item by item: as a whole it could also be one item, a text.

    Args:
        argv: arguments.
    """
    arguments: list[str] = []
    for argument in argv:
        items: Any = None
        if appended := re.fullmatch(r"(--[\w.]+\+=)(\[.*\])", argument, re.DOTALL):
            with suppress(yaml.YAMLError):
                items = load_argument(appended[2])
        if appended and isinstance(items, list):
            arguments += [appended[1] + (item if isinstance(item, str) else json.dumps(item)) for item in items]
        else:
            arguments.append(argument)
    return arguments


def texts_of_values(argv: Sequence[str]) -> dict[str, str]:
    """``str(value)`` -> what was typed, for each argument that stands for null, a list or a mapping.

    jsonargparse passes an option of a class on to that class's parser as ``str(value)``, where null is the word "None".

    Args:
        argv: arguments.
    """
    texts: dict[str, str] = {}
    for argument in argv:
        text = argument.partition("=")[2] if argument.startswith("-") and "=" in argument else argument
        try:
            value = load_argument(text) if text.strip() else text
        except yaml.YAMLError:
            continue
        if value is None or isinstance(value, list | dict):
            texts[str(value)] = text
    return texts


def as_typed(argument: str, texts: Mapping[str, str]) -> str:
    """An argument of a nested parser with its value as it was typed."""
    option, equals, value = argument.partition("=")
    return f"{option}={texts.get(value, value)}" if equals else argument


def may_be_null(type_hint: Any) -> bool:
    """Whether an option's type takes null; without a type, anything goes."""
    return type_hint in (None, Any, type(None)) or type(None) in get_args(type_hint)
