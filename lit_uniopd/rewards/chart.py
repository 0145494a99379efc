"""Relaxed accuracy of ChartQA: numbers within 5 % of the gold answer, other answers equal but for case.

`grade_chartqa_relaxed` is the published rule with its quirks (the ``lmms`` protocol compares scores with papers):
1.05 fails against 1.0 by float noise, a year passes within 5 %, zero needs the same text, ``1,000`` and ``$5`` are
text. `grade_chartqa_normalised` reads such answers as a person would; the two are reported side by side.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from lit_uniopd.grade import Grade
from lit_uniopd.rewards.exact import stated_answer
from lit_uniopd.rewards.grade import gold_text, unknown, verdict
from lit_uniopd.rewards.notation import ascii_notation, without_emphasis, without_stop
from lit_uniopd.rewards.text import strip_reasoning, visible_answer

MAX_RELATIVE_CHANGE = 0.05
_MAX_NUMBER_CHARS = 400
"""No number of a chart is longer; float() of hostile digits takes its time."""
_YEAR = re.compile(r"1\d{3}|20\d{2}|2100")
_QUOTES = "\"'`“”‘’«»"
_CURRENCY = re.compile(r"([+-]?)\s*[$€£¥₹]\s*")
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")


def grade_chartqa_relaxed(gold: Any, prediction: str, row: Mapping[str, Any] | None = None) -> Grade:
    """The published rule, on all of the response: quotes and full stops count.

    Args:
        gold: Text or a number.
        prediction: The response. Thinking and outer blanks are taken off first.
        row: Not used.
    """
    return _grade(gold, prediction, normalise=False)


def grade_chartqa_normalised(gold: Any, prediction: str, row: Mapping[str, Any] | None = None) -> Grade:
    """The same rule as a person would apply it.

    Read is what the response states as its answer (`lit_uniopd.rewards.exact.stated_answer`).
    Outer blanks, quotes and markdown, one final full stop, a leading currency sign and thousands separators are taken
    off both sides, other scripts' digits and signs are read, float noise does not count, and a year (a whole number
    from 1000 to 2100, written as one) has no 5 %: it is the same year or another.
    """
    return _grade(gold, prediction, normalise=True)


def _grade(gold: Any, prediction: str, *, normalise: bool) -> Grade:
    expected = gold_text(gold)
    if expected is None:
        return unknown("no_gold")
    answer = strip_reasoning(prediction) if normalise else visible_answer(prediction)
    if answer is None:
        return Grade(False, 0.0, reason="truncated")
    if normalise:
        expected, answer = _normalised(expected), _normalised(stated_answer(answer))
    if not answer.strip():
        return Grade(False, 0.0, reason="no_answer")
    equal = _equal_to_a_person if normalise else _relaxed_equal
    return verdict(equal(expected, answer), answer)


def _relaxed_equal(expected: str, answer: str) -> bool:
    target, value = _number(expected), _number(answer)
    # A target of zero has no relative difference; that of nan and infinities is nan, and never small.
    if value is not None and target:
        return abs(value - target) / abs(target) <= MAX_RELATIVE_CHANGE
    return answer.lower() == expected.lower()


def _equal_to_a_person(expected: str, answer: str) -> bool:
    if _YEAR.fullmatch(expected) and _YEAR.fullmatch(answer):
        return expected == answer
    target, value = _number(expected), _number(answer)
    if value is not None and target and math.isfinite(target):  # "inf" and "nan" are words here: equal to themselves
        return abs(value - target) <= MAX_RELATIVE_CHANGE * abs(target) * (1 + 1e-9)
    return answer.casefold() == expected.casefold()


def _number(text: str) -> float | None:
    if len(text) > _MAX_NUMBER_CHARS:
        return None
    try:
        number = float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return number


def _normalised(text: str) -> str:
    text = without_emphasis(ascii_notation(text).strip().strip(_QUOTES).strip())
    text = without_emphasis(without_stop(text).strip(_QUOTES).strip())
    text = _CURRENCY.sub(r"\1", text, count=1) if _CURRENCY.match(text) else text
    return _THOUSANDS.sub(lambda number: number.group().replace(",", ""), text)
