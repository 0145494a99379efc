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
from lit_uniopd.rewards.grade import gold_text, unknown, verdict
from lit_uniopd.rewards.text import visible_answer

MAX_RELATIVE_CHANGE = 0.05
_MAX_NUMBER_CHARS = 400
"""No number of a chart is longer; float() of hostile digits takes its time."""
_QUOTES = "\"'`“”‘’«»"
_CURRENCY = re.compile(r"([+-]?)\s*[$€£¥₹]\s*")
_THOUSANDS = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")


def grade_chartqa_relaxed(gold: Any, prediction: str, row: Mapping[str, Any] | None = None) -> Grade:
    """The published rule, on the response as it is: blanks, quotes and full stops count.

    Args:
        gold: Text or a number.
        prediction: The response. If it holds thinking, that and the blanks around it are taken off first.
        row: Not used.
    """
    return _grade(gold, prediction, normalise=False)


def grade_chartqa_normalised(gold: Any, prediction: str, row: Mapping[str, Any] | None = None) -> Grade:
    """The same rule after outer blanks and quotes, one final full stop, a leading currency sign and thousands
    separators are taken off both sides.
    """
    return _grade(gold, prediction, normalise=True)


def _grade(gold: Any, prediction: str, *, normalise: bool) -> Grade:
    expected = gold_text(gold)
    if expected is None:
        return unknown("no_gold")
    answer = visible_answer(prediction)
    if answer is None:
        return Grade(False, 0.0, reason="truncated")
    if normalise:
        expected, answer = _normalised(expected), _normalised(answer)
    if not answer.strip():
        return Grade(False, 0.0, reason="no_answer")
    return verdict(_relaxed_equal(expected, answer), answer)


def _relaxed_equal(expected: str, answer: str) -> bool:
    target, value = _number(expected), _number(answer)
    if value is not None and target:  # a target of zero has no relative difference
        return abs(value - target) / abs(target) <= MAX_RELATIVE_CHANGE
    return answer.lower() == expected.lower()


def _number(text: str) -> float | None:
    if len(text) > _MAX_NUMBER_CHARS:
        return None
    try:
        number = float(text.rstrip("%")) / 100.0 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None  # "inf" and "nan" are words: equal to themselves


def _normalised(text: str) -> str:
    text = text.strip().strip(_QUOTES).strip()
    text = text.removesuffix(".").rstrip().strip(_QUOTES).strip()
    text = _CURRENCY.sub(r"\1", text, count=1) if _CURRENCY.match(text) else text
    return _THOUSANDS.sub(lambda number: number.group().replace(",", ""), text)
