"""What every grader has in common.

Torch-free on purpose: grading processes import this module and must start in milliseconds.
"""

import functools
import logging
import numbers
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, Protocol

from lit_uniopd.grade import Grade

_log = logging.getLogger(__name__)


class Grader(Protocol):
    """Judges one response. Never raises: an error becomes the ``reason`` of an unknown grade."""

    def __call__(self, gold: Any, prediction: str, row: Mapping[str, Any] | None = None, **options: Any) -> Grade: ...


def verdict(correct: bool, extracted: str | None) -> Grade:
    """The grade of an answer that was found and compared."""
    return Grade(correct, float(correct), extracted, "ok" if correct else "wrong")


def unknown(reason: str) -> Grade:
    """The grade of an answer that could not be judged."""
    return Grade(None, 0.0, reason=reason)


def gold_text(gold: Any) -> str | None:
    """A gold answer as text, numbers in positional notation; None if the row has none (``None``, NaN, blank).

    Raises:
        TypeError: if it is neither text nor a real number (numpy scalars, ``Fraction`` and ``Decimal`` are numbers).
    """
    if gold is None or isinstance(gold, str):
        return gold if gold and gold.strip() else None
    if isinstance(gold, bool | numbers.Integral | Fraction):
        return str(gold)
    if not isinstance(gold, numbers.Real | Decimal):
        raise TypeError(f"a gold answer must be text or a number, not {type(gold).__name__}")
    number = gold if isinstance(gold, Decimal) else Decimal(repr(float(gold)))
    if number.is_nan():
        return None
    # A column with missing values turns integers into floats: 25.0 is the answer 25.
    return format(number.to_integral_value() if number.is_finite() and number == int(number) else number, "f")


def check_extraction(extraction: str, modes: tuple[str, ...] = ("protocol", "robust")) -> None:
    """Refuse unknown modes of finding the answer.

    Raises:
        ValueError: with the modes there are.
    """
    if extraction not in modes:
        raise ValueError(f"extraction must be one of {', '.join(modes)}, not {extraction!r}")


def guarded(name: str, grade: Callable[..., Grade]) -> Grader:
    """Make ``grade`` keep the promises of a `Grader`: no gold, no verdict; an exception becomes reason ``error``."""

    @functools.wraps(grade)
    def call(gold: Any, prediction: str, row: Mapping[str, Any] | None = None, **options: Any) -> Grade:
        try:
            if not isinstance(prediction, str):
                raise TypeError(f"a response must be text, not {type(prediction).__name__}")
            return grade(gold, prediction, row, **options)
        except Exception as error:
            return failed(name, type(error).__name__, str(error))

    return call


def failed(name: str, kind: str, message: str) -> Grade:
    """The grade of an answer whose grader broke down; the first breakdown of each kind is logged."""
    _log_once(name, kind, message[:300])
    return unknown("error")


_logged: dict[tuple[str, str], str] = {}


def breakdown_of(name: str) -> str | None:
    """Why a grader last broke down in a new way, as ``KeyError: 'solution'``; None: it has not."""
    return next((f"{kind}: {text}" for (grader, kind), text in reversed(_logged.items()) if grader == name), None)


def _log_once(name: str, kind: str, message: str) -> None:
    # Thousands of answers can fail alike; the grades count them, the log explains the first.
    level = logging.DEBUG if (name, kind) in _logged else logging.WARNING
    _logged.setdefault((name, kind), message)
    _log.log(level, "grader %s could not judge an answer, which counts as unknown: %s: %s", name, kind, message)
