"""Numbers within a tolerance (DynaMath's float answers, and the like)."""

import math
import re
from collections.abc import Mapping
from typing import Any

from lit_uniopd.grade import Grade
from lit_uniopd.rewards.grade import gold_text, unknown, verdict
from lit_uniopd.rewards.text import last_answer_tag, last_box, strip_thinking

_JSON = re.compile(r"[\"'](?:final_?|short_?)?answer[\"']\s{0,4}:\s{0,4}[\"']?([^\"'\n,}]{1,80})", re.I)
_FRACTION = re.compile(r"\\[dt]?frac\s{0,3}\{\s{0,3}([-+0-9.]{1,40})\s{0,3}\}\s{0,3}\{\s{0,3}([-+0-9.]{1,40})\s{0,3}\}")
_NUMBER = re.compile(
    r"(?<![\w.])([-+−]?)\s?[$€£]?((?:\d{1,3}(?:,\d{3}){1,6}(?!\d)|\d{1,40})(?:\.\d{0,40})?|\.\d{1,40})"
    r"(?:\s?(?:[eE]|(?:\\times|[*×x])\s?10\s?\^\s?\{?)([-+−]?\d{1,3})\}?)?(?:\s?/\s?(\d{1,40}(?:\.\d{1,40})?))?(\s?\\?%)?"
)


def grade_numeric(
    gold: Any,
    prediction: str,
    row: Mapping[str, Any] | None = None,
    *,
    absolute: float = 0.0,
    relative: float = 0.0,
) -> Grade:
    r"""Compare the number of a response with the gold number: ``|answer - gold| <= max(absolute, relative * |gold|)``.

    The number is the last one in the last answer tag, else in the last box, else in a JSON ``answer`` field, else in
    the response. Fractions (``3/4``, ``\frac{3}{4}``), scientific notation, thousands separators and percentages
    (50 % is both .5 and 50) are understood.

    Args:
        gold: A number, or text that holds one.
        prediction: The response.
        row: Not used.
        absolute: Tolerance in the units of the answer.
        relative: Tolerance as a share of the gold number.

    Raises:
        ValueError: if the gold answer holds no number.
    """
    expected = gold_text(gold)
    if expected is None:
        return unknown("no_gold")
    targets = numbers(expected)
    if not targets:
        raise ValueError(f"the gold answer {expected[:40]!r} is no number")
    visible = strip_thinking(prediction)
    if visible is None:
        return Grade(False, 0.0, reason="truncated")
    for piece in _pieces(visible):
        if candidates := numbers(piece):
            text, values = candidates[-1]
            right = any(_close(v, t, absolute, relative) for v in values for t in targets[-1][1])
            return verdict(right, text)
    return Grade(False, 0.0, reason="no_answer")


def numbers(text: str) -> list[tuple[str, tuple[float, ...]]]:
    """Every number of a text with what it may mean (a percentage means two things), in order."""
    text = _FRACTION.sub(r" \1/\2 ", text)
    results = []
    for match in _NUMBER.finditer(text):
        sign, digits, exponent, denominator, percent = match.groups()
        value = float(digits.replace(",", "")) * (-1 if sign in ("-", "−") else 1)
        if exponent:
            value *= 10.0 ** int(exponent.replace("−", "-"))
        if denominator:
            divisor = float(denominator)
            if divisor == 0:
                continue
            value /= divisor
        if math.isfinite(value):
            results.append((match.group().strip(), (value, value / 100) if percent else (value,)))
    return results


def _pieces(text: str) -> list[str]:
    fields = _JSON.findall(text)
    pieces = [last_answer_tag(text), last_box(text), fields[-1] if fields else None, text]
    return [piece for piece in pieces if piece]


def _close(value: float, target: float, absolute: float, relative: float) -> bool:
    # The tolerance is meant in decimals: 0.3 - 0.299 is more than 0.001 in binary.
    return abs(value - target) <= max(absolute, relative * abs(target)) + 1e-12 * max(1.0, abs(target))
