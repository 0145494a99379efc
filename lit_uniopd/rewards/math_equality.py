r"""When two answers of mathematics are the same: forms that math-verify misreads first, then math-verify, then a veto.

math-verify compares by 15 digits, takes letters for units and words for products of letters, so that 1 - 2^{-60} equals
1 - 2^{-61}, 3t equals 3, and TRIANGLE equals INTEGRAL. Here exact numbers are compared exactly, units and words as what
they are, and whatever math-verify calls equal is tried once more in 150 digits.
"""

import functools
import math
import re
from fractions import Fraction
from typing import Any

from lit_uniopd.rewards.expression import Value, as_float, evaluate, is_close, is_percentage
from lit_uniopd.rewards.notation import ascii_notation, exact_decimals, without_emphasis, without_layout, without_stop
from lit_uniopd.rewards.units import split_unit

THOUSANDS = re.compile(r"(?<=\d)(?:\\[,!;: ]|~|\{,\})(?=\d{3}(?!\d))")
"""Thin spaces and guarded commas inside a number."""
_SPACED = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d ])")
INTEGER = re.compile(r"[+-]?[0-9]+")
_ANNOUNCED = re.compile(r"^(?:the\s+)?(?:final\s+)?answer\s*(?:is|:|=)\s*:?\s*", re.I)
_EMPTY = re.compile(
    r"\\emptyset|\\varnothing|\\O|\\\{\s*\\\}|\\text\s*\{\s*no (?:real )?solutions?\s*\}|no (?:real )?solutions?", re.I
)
_BASE = re.compile(
    r"([0-9A-Fa-f]+)\s*(?:_\s*\{?\s*(?:\\text\s*\{)?\s*(?:base\s*)?(\d{1,2}|two|eight|ten|sixteen)\s*\}*)?"
)
_BASES = {"two": 2, "eight": 8, "ten": 10, "sixteen": 16}
_CLOCK = re.compile(
    r"(\d{1,2}):([0-5]\d)(?::([0-5]\d))?\s*(?:\\text\s*\{|\\mathrm\s*\{)?\s*([ap])?\.?\s*(?:m\b)?\.?\s*\}?", re.I
)
_RATIO = re.compile(r"(\d{1,20}(?:\.\d{1,10})?)\s*:\s*(\d{1,20}(?:\.\d{1,10})?)")
_NEQ = re.compile(r"\\(?:neq|ne)(?![A-Za-z])|\\not\s*=|!=|<>")
_VARIABLE_NEQ = re.compile(r"\s*[A-Za-z]\s*\\(?:neq|ne)(?![A-Za-z])\s*(.+)")
_WORDS = re.compile(r"[^\W\d_]+(?:[ ,'’\-]+[^\W\d_]+)*")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|operatorname|mbox)\s*\{([^{}]*)\}")
_FONT = re.compile(r"\\text(?:bf|it|rm|sf|normal|up)(?=\s*\{)")
_ONE_LETTER = re.compile(r"[\d})]\s*[A-Za-z](?:\s*\^\s*\{?-?\d\}?)?\s*$")
"""``5 m``: five metres, or five times m; a unit only where the other side has one too."""
_ORDERED = re.compile(r"\s*(?:\\left)?\s*([(\[])(.*)(?:\\right)?([)\]])\s*", re.DOTALL)
_SET = re.compile(r"\s*(?:\\left)?\s*\\\{.*\\\}\s*", re.DOTALL)


def clean(answer: str) -> str:
    """An answer in one notation, without a sentence's full stop, emphasis, and ``the answer is`` around it."""
    answer = THOUSANDS.sub("", ascii_notation(answer).strip())
    for _ in range(3):
        answer = _ANNOUNCED.sub("", without_stop(without_emphasis(answer)).strip("$").strip())
    answer = _SPACED.sub(lambda match: match[0].replace(" ", ""), answer)
    answer = _FONT.sub(r"\\text", answer)
    return exact_decimals(answer)


def equal_answers(expected: str, answer: str, digits: int) -> bool:
    """Whether two answers that `clean` has written are the same.

    Args:
        expected: the gold answer.
        answer: what the response holds.
        digits: decimal places to which decimals are rounded before they are compared.

    Raises:
        ValueError: if the gold answer cannot be read.
    """
    if expected == answer:
        return True
    for rule in (_empty_sets, _bases, _clocks, _ratios, _unequal, _brackets, _in_words):
        if (equal := rule(expected, answer)) is not None:
            return equal
    texts = expected, answer
    (expected, unit), (answer, other) = _number_and_unit(expected), _number_and_unit(answer)
    if any(map(_ONE_LETTER.search, texts)) and (unit is None or other is None):
        return texts[0] == texts[1] or _verified(*texts, digits)
    if unit and other and unit != other:
        return False
    if expected == answer:
        return True
    if (equal := _numbers(expected, answer, digits)) is not None:
        return equal
    return _verified(expected, answer, digits)


# --- forms that are read here: None where a form does not apply ------------------------------------------------------


def _empty_sets(expected: str, answer: str) -> bool | None:
    empty = [_EMPTY.fullmatch(text.strip()) is not None for text in (expected, answer)]
    return True if all(empty) else None


def _bases(expected: str, answer: str) -> bool | None:
    """Numbers of another base; where one side names no base, its digits must be the same."""
    first, second = _BASE.fullmatch(expected), _BASE.fullmatch(answer)
    if first is None or second is None or not (first[2] or second[2]):
        return None
    if not first[2] or not second[2]:
        return first[1].lower() == second[1].lower()
    try:
        values = [int(match[1], int(_BASES.get(match[2], match[2]))) for match in (first, second)]
    except ValueError:  # digits beyond the base
        return False
    return values[0] == values[1]


def _clocks(expected: str, answer: str) -> bool | None:
    """Times of day; a gold time without am or pm is either."""
    first, second = _CLOCK.fullmatch(expected.strip()), _CLOCK.fullmatch(answer.strip())
    if first is None or second is None:
        # 3:30 is no ratio in lowest terms: a time, which no number equals.
        is_time = first is not None and (first[3] or first[4] or math.gcd(int(first[1]), int(first[2])) > 1)
        return False if is_time and ":" not in answer else None
    times = []
    for match in (first, second):
        hour = int(match[1])
        if match[4]:
            hour = hour % 12 + (12 if match[4].lower() == "p" else 0)
        times.append((hour, match[2], match[3] or "00"))
    return times[0] == times[1] or (
        not first[4] and first.groups()[1:3] == second.groups()[1:3] and int(first[1]) == int(second[1])
    )


def _ratios(expected: str, answer: str) -> bool | None:
    first, second = _RATIO.fullmatch(expected.strip()), _RATIO.fullmatch(answer.strip())
    if first is None or second is None:
        return None
    return Fraction(first[1]) * Fraction(second[2]) == Fraction(first[2]) * Fraction(second[1])


def _unequal(expected: str, answer: str) -> bool | None:
    r"""``x \neq 3``: both sides the same, in either order, or the set without 3."""
    has = [_NEQ.search(text) is not None for text in (expected, answer)]
    if not any(has):
        return None
    if all(has):
        pairs = [sorted_parts(text) for text in (expected, answer)]
        if len(pairs[0]) != len(pairs[1]):
            return False
        return all(any(_same_sides(first, second) for second in pairs[1]) for first in pairs[0]) and all(
            any(_same_sides(first, second) for first in pairs[0]) for second in pairs[1]
        )
    unequal, other = (expected, answer) if has[0] else (answer, expected)
    match = _VARIABLE_NEQ.fullmatch(unequal)
    if match is None or "," in match[1]:
        return False
    without = rf"(-\infty, {match[1]}) \cup ({match[1]}, \infty)"
    other = re.sub(r"^\s*[A-Za-z]\s*\\in\s*", "", other)
    removed = re.fullmatch(
        r"\s*(?:\\mathbb\s*\{?R\}?|R|\\R)\s*(?:\\setminus|\\backslash|-|\\)\s*\\\{(.*)\\\}\s*", other
    )
    return equal_answers(match[1], removed[1], 6) if removed else _verified(without, other, 6)


def sorted_parts(text: str) -> list[tuple[str, str]]:
    """The two sides of every inequation of a list."""
    sides = [_NEQ.split(piece) for piece in re.split(r",|;|\\text\{\s*and\s*\}|\band\b|\\land", text) if piece.strip()]
    return [(pair[0].strip(), pair[1].strip()) for pair in sides if len(pair) == 2]


def _same_sides(first: tuple[str, str], second: tuple[str, str]) -> bool:
    def same(a: str, b: str) -> bool:
        return a == b or (bool(a) and bool(b) and _verified(a, b, 6))

    return (same(first[0], second[0]) and same(first[1], second[1])) or (
        same(first[0], second[1]) and same(first[1], second[0])
    )


def _brackets(expected: str, answer: str) -> bool | None:
    """A set in braces is no pair and no interval."""
    ordered = [_ORDERED.fullmatch(text) is not None and "," in text for text in (expected, answer)]
    braces = [_SET.fullmatch(text) is not None for text in (expected, answer)]
    return False if (ordered[0] and braces[1]) or (ordered[1] and braces[0]) else None


def _in_words(expected: str, answer: str) -> bool | None:
    """Words are compared as words; up to three small letters are a product."""
    texts = [_plain_words(text) for text in (expected, answer)]
    if None in texts:
        return None
    first, second = texts
    if max(len(first or ""), len(second or "")) == 1:
        return first == second
    return (first or "").casefold() == (second or "").casefold()


def _plain_words(text: str) -> str | None:
    wrapped = _TEXT.fullmatch(text.strip())
    content = " ".join(_TEXT.sub(r"\1", text).split()).strip(" .()")
    if not _WORDS.fullmatch(content):
        return None
    is_product = (
        wrapped is None and content.isascii() and content.islower() and 1 < len(content) <= 3 and " " not in content
    )
    return None if is_product else content


# --- numbers ---------------------------------------------------------------------------------------------------------


def _number_and_unit(text: str) -> tuple[str, str | None]:
    """A quantity without its unit; anything else stays whole."""
    number, unit = split_unit(without_layout(text))
    return (number, unit) if unit is not None and number else (text, None)


def _numbers(expected: str, answer: str, digits: int) -> bool | None:
    """Rational numbers; None where one of the two is something else."""
    if INTEGER.fullmatch(expected) and INTEGER.fullmatch(answer):
        return int(expected) == int(answer)
    first, second = evaluate(expected), evaluate(answer)
    # Where the gold answer is no whole number, "0,5" is no list of them.
    is_broken = "." in expected or (isinstance(first, Fraction) and first.denominator > 1)
    comma_decimal = is_broken and re.fullmatch(r"-?\d+,\d+", answer) is not None
    if _is_list(expected) or (_is_list(answer) and not comma_decimal):
        return None
    if not isinstance(first, Fraction) or not isinstance(second, Fraction):
        return None
    percent = [is_percentage(text) for text in (expected, answer)]
    readings = [second, second / 100] if percent[1] and not percent[0] else [second]
    golds = [first, first / 100] if percent[0] and not percent[1] else [first]
    is_decimal = any(re.search(r"\d?\.\d", text) for text in (expected, answer))
    return any(_equal(a, b, digits if is_decimal else None) for a in golds for b in readings)


def _is_list(text: str) -> bool:
    return "," in re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)


def _equal(first: Value, second: Value, digits: int | None) -> bool:
    """Equal exactly, or (with ``digits``) as rounded decimals that are close to each other."""
    if first == second:
        return True
    if digits is None:
        return False
    return round(first, digits) == round(second, digits) and is_close(as_float(first), as_float(second), digits)


# --- math-verify -----------------------------------------------------------------------------------------------------


def _verified(expected: str, answer: str, digits: int) -> bool:
    from lit_uniopd.rewards.exact_sympy import may_be_equal

    gold, target, verify = parsed(expected, answer, units=False)
    equal = verify(
        gold, target, float_rounding=digits, timeout_seconds=None, raise_on_error=True, allow_set_relation_comp=True
    )
    # Beside each expression stands its text, which says nothing.
    pairs = [(a, b) for a in gold for b in target if not isinstance(a, str) and not isinstance(b, str)]
    return bool(equal) and (not pairs or any(may_be_equal(a, b, digits) for a, b in pairs))


def parsed(expected: str, answer: str, *, units: bool) -> tuple[list[Any], list[Any], Any]:
    """What math-verify reads in the gold answer and in another, and its comparison; ``units`` as in `math_verify`.

    Raises:
        ValueError: if it cannot read the gold answer.
    """
    parse, verify = math_verify(units=units)
    gold, target = parse(expected), parse(answer)
    if not gold:
        raise ValueError(f"math-verify cannot read the gold answer {expected[:80]!r}")
    return gold, target, verify


@functools.cache
def math_verify(*, units: bool) -> tuple[Any, Any]:
    """math-verify's parser, on the content of a box, and its comparison.

    Args:
        units: let it take units off; it takes letters of a formula for units (``3t``).
    """
    # Half a second to import: only grading processes pay for it.
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    # Not its default pair of extractors: the second takes the last number of what the LaTeX grammar rejects, so that
    # "203 \lor 204" would earn 204's reward. Its time limits need SIGALRM, which the worker uses itself; the parent
    # keeps time.
    normalisation = NormalizationConfig(
        basic_latex=True, units=units, malformed_operators=True, nits=True, boxed="all", equations=False
    )
    latex = [LatexExtractionConfig(boxed_match_priority=0, normalization_config=normalisation)]

    def parse_boxed(text: str) -> list[Any]:
        return parse(rf"\boxed{{{text}}}", extraction_config=latex, parsing_timeout=None, raise_on_error=True)  # type: ignore[arg-type]

    return parse_boxed, verify
