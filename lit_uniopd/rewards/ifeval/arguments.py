"""Reading a row's instructions and their arguments, before anything is graded by them.

The official checkers draw an argument that is missing, null or out of range at random; here it is an error.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lit_uniopd.rewards.ifeval.checks import CHECKS, RELATIONS
from lit_uniopd.rewards.ifeval.language import languages

Instruction = tuple[str, dict[str, Any]]
"""Its name and the arguments of its check."""


def read_instructions(names: Sequence[str], kwargs: Sequence[Mapping[str, Any] | None]) -> list[Instruction]:
    """The instructions of a row.

    Args:
        names: The column ``instruction_id_list``.
        kwargs: The arguments of each; null stands for an argument that the instruction does not have.

    Raises:
        ValueError: with what is wrong: an unknown instruction, an argument that is missing, unknown or unreadable.
    """
    if len(names) != len(kwargs):
        raise ValueError(f"there are {len(names)} instructions and {len(kwargs)} sets of arguments")
    return [
        (name, _read(name, {key: value for key, value in (arguments or {}).items() if value is not None}))
        for name, arguments in zip(names, kwargs, strict=True)
    ]


def _read(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    if name not in CHECKS:
        raise ValueError(f"there is no check for the instruction {name!r}")
    _, *expected = inspect.signature(CHECKS[name]).parameters
    for argument in {*expected} ^ {*arguments}:
        fault = "lacks its argument" if argument in expected else "takes no argument"
        raise ValueError(f"the instruction {name} {fault} {argument!r}")
    for argument, value in arguments.items():
        try:
            arguments[argument] = _READERS.get(argument, _count)(value)
        except ValueError as error:
            raise ValueError(f"{argument!r} of the instruction {name} is {value!r}, but {error}") from None
    if arguments.get("nth_paragraph", 1) not in range(1, arguments.get("num_paragraphs", 1) + 1):
        raise ValueError(
            f"the instruction {name} asks for paragraph {arguments['nth_paragraph']} of {arguments['num_paragraphs']}"
        )
    return arguments


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not float(value).is_integer() or value < 0:
        raise ValueError("it must be a whole number, not negative")
    return int(value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("it must be text, not blank")
    return value


def _letter(value: Any) -> str:
    if len(_text(value)) != 1:
        raise ValueError("it must be one letter")
    return value


def _pattern(value: Any) -> str:
    try:
        re.compile(_text(value))
    except re.error as error:
        raise ValueError(f"it must be a regular expression ({error}); write a backslash before signs like *") from None
    return value


def _patterns(value: Any) -> list[str]:
    if isinstance(value, str) or not value:
        raise ValueError("it must be a list of words")
    return [_pattern(word) for word in value]


def _relation(value: Any) -> str:
    return _option(value, RELATIONS)


def _language(value: Any) -> str:
    return _option(value, languages())


def _option(value: Any, options: Sequence[str]) -> str:
    if value not in options:
        raise ValueError(f"it must be one of {', '.join(options)}")
    return value


_READERS: dict[str, Callable[[Any], Any]] = {
    "keyword": _pattern,
    "keywords": _patterns,
    "forbidden_words": _patterns,
    "section_spliter": _pattern,
    "postscript_marker": _pattern,
    "relation": _relation,
    "let_relation": _relation,
    "capital_relation": _relation,
    "letter": _letter,
    "language": _language,
    "first_word": _text,
    "end_phrase": _text,
    "prompt_to_repeat": _text,
}
"""Argument -> its reader; the others are counts."""
