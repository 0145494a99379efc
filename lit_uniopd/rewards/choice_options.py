"""The options of a multiple-choice question, compared with what a response says: as numbers, as formulas, as words."""

import functools
import re
import unicodedata
from collections.abc import Mapping

from lit_uniopd.rewards.expression import equal_values, evaluate
from lit_uniopd.rewards.notation import ascii_notation, without_layout
from lit_uniopd.rewards.units import split_unit

MARKUP = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathsf|boldsymbol|mbox|left|right)\b|\\[()\[\]]|[*_`$\"'“”‘’]"
)
BRACES = re.compile(r"[{}]")
_BULLET = re.compile(r"^(?:[#>•]{1,6}|-(?=\s))\s*")
"""At the start of a line; a number's minus sign is not one."""
_TRAILING = ".,;:!?。，；：！"
_SEPARATORS = re.compile(r"[^\w.%+\-*/^=<>]+")
_TIMES = re.compile(r"(?<=[\w)}])\s*(?:\\times|\\cdot|(?<!\*)\*(?!\*))\s*(?=[\w({\\])")
_FORMULA = re.compile(r"[\\^=<>]|\d\s*[-+*/]|[-+*/]\s*\d|(?<![A-Za-z])[A-Za-z]\s*[-+*/^]")
_FRACTION = re.compile(r"\\[dtc]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_PIECE_END = re.compile(r"[.,;:!?。，；]*\s*$|[.,;。，；](?=\s)|\s+(?=[A-Za-z(])|(?<=\d)[^\w\s.,%/^*+\\{}()-]")
_BEGINS_FORMULA = re.compile(r"[\s*:(\[]{0,4}[-+−$\\√\d.½¼¾]|[\s*:(\[$]{0,4}[A-Za-z]\s?[-+−*/^=<>×·]")
_SIMPLE = re.compile(r"\((\w+)\)")
_ALTERNATIVE = re.compile(r"(?:or|oder|ou|o|或|或者|/|and|und|y|et|和)\s+")


def plain(text: str) -> str:
    """A text without markup, braces, a bullet before and punctuation behind it."""
    return _BULLET.sub("", BRACES.sub("", MARKUP.sub("", text)).strip()).strip(_TRAILING).strip()


@functools.lru_cache(maxsize=4096)
def words(text: str) -> str:
    """The words, numbers and operators of a text in small letters, one blank between them."""
    text = _TIMES.sub(" × ", ascii_notation(text))
    text = plain(unicodedata.normalize("NFKC", text)).lower()
    return _SEPARATORS.sub(" ", text.replace("*", " ").replace("×", "*")).strip(" .")


@functools.lru_cache(maxsize=4096)
def is_formula(text: str) -> bool:
    """Whether a text is mathematics, in which signs and not only words count."""
    return evaluate(text) is not None or _FORMULA.search(ascii_notation(text)) is not None


def same_option(option: str, text: str) -> bool:
    r"""Whether a text is an option: the same number (``1/2`` is ``$\frac{1}{2}$``), formula, or words."""
    value, other = evaluate(option), evaluate(text)
    if value is not None and other is not None:
        # One side may leave the unit out; two units must be the same one.
        units = [split_unit(without_layout(ascii_notation(piece)).strip(". "))[1] for piece in (option, text)]
        return equal_values(value, other) and (not units[0] or not units[1] or units[0] == units[1])
    if is_formula(option) and is_formula(text):
        return _formula(option) == _formula(text)
    return words(option) == words(text) != ""


def options_equal_to(text: str, options: Mapping[str, str]) -> list[str]:
    """The letters of the options that a text is."""
    return [letter for letter, option in options.items() if same_option(option, text)]


def option_at_start(text: str, options: Mapping[str, str]) -> str | None:
    """The option that a text begins with, the longest; ``""`` if another one follows as an alternative."""
    stated = _stated_number(text, options)
    if stated is not None:
        return stated
    following = words(text)
    begun = {
        letter: option_words
        for letter, option in options.items()
        if (option_words := words(option)) and f"{following} ".startswith(f"{option_words} ")
    }
    if not begun:
        return None
    letter = max(begun, key=lambda name: len(begun[name]))
    behind = following[len(begun[letter]) :].strip()
    if is_formula(options[letter]) and re.match(r"[-+*/^=<>]\s*\S", behind):
        return None  # the text goes on as another formula
    if match := _ALTERNATIVE.match(behind):
        alternative = option_at_start(behind[match.end() :], {k: v for k, v in options.items() if k != letter})
        return letter if alternative is None else ""
    return letter


def _stated_number(text: str, options: Mapping[str, str]) -> str | None:
    """The option whose number or formula a text begins with, up to a stop or a word."""
    formulas = {letter: option for letter, option in options.items() if is_formula(option)}
    if not formulas or not _BEGINS_FORMULA.match(text):
        return None
    ends = [end.start() for end, _ in zip(_PIECE_END.finditer(text[:80]), range(8), strict=False)]
    for end in reversed(ends):
        if len(same := options_equal_to(text[:end], formulas)) == 1:
            behind = words(text[end:])
            match = _ALTERNATIVE.match(behind)
            return same[0] if match is None or option_at_start(behind[match.end() :], options) is None else ""
    return None


def option_mentioned(text: str, options: Mapping[str, str]) -> str | None:
    """The longest option that a response names, if it names no other.

    Where options are numbers, the last number of the response must be the option: others are steps of a calculation.
    """
    response = f" {words(text)} "
    mentioned = {
        letter: option_words
        for letter, option in options.items()
        if (option_words := words(option))
        and f" {option_words} " in response
        and f" not {option_words} " not in response
    }
    longest = [
        letter
        for letter, option_words in mentioned.items()
        if not any(option_words != other and f" {option_words} " in f" {other} " for other in mentioned.values())
    ]
    if len(longest) != 1:
        return None
    # What is part of a longer option must not be named a second time, on its own.
    remainder = response.replace(f" {mentioned[longest[0]]} ", "  ")
    if any(f" {other} " in remainder for letter, other in mentioned.items() if letter != longest[0]):
        return None
    if evaluate(options[longest[0]]) is not None:
        behind = response[response.rindex(f" {mentioned[longest[0]]} ") + len(mentioned[longest[0]]) + 1 :]
        before = response[: response.rindex(f" {mentioned[longest[0]]} ")]
        if re.search(r"\d", behind) or re.match(r"\s[-+*/^=<>]", behind) or re.search(r"[-+*/^<>]$", before):
            return None
    return longest[0]


def _formula(text: str) -> str:
    r"""A formula without blanks and layout, ``\frac{a}{b}`` as a/b."""
    text = without_layout(ascii_notation(text)).strip(".。 ")
    for _ in range(4):
        text = _FRACTION.sub(r"(\1)/(\2)", text)
    text = re.sub(r"\\(?:times|cdot)(?![a-z])", "*", text)
    text = MARKUP.sub(lambda match: match[0] if match[0] in "*_" else "", text)
    text = re.sub(r"\^\{([^{}]*)\}", r"^(\1)", text)
    return _SIMPLE.sub(r"\1", re.sub(r"\s+", "", BRACES.sub("", text)))
