"""Numbers within a tolerance (DynaMath's float answers, and the like)."""

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal

from lit_uniopd.grade import Grade
from lit_uniopd.rewards.expression import Value, as_float, evaluate, is_percentage
from lit_uniopd.rewards.grade import check_extraction, gold_text, unknown, verdict
from lit_uniopd.rewards.notation import ascii_notation
from lit_uniopd.rewards.text import last_answer_tag, last_box, strip_reasoning, strip_thinking

_JSON = re.compile(
    r"[\"'](?:final[_ ]?|short[_ ]?)?answer[\"']\s{0,4}:\s{0,4}"
    r"(?:\"([^\"\n]{0,80})\"|'([^'\n]{0,80})'|([^\"'\n,}]{1,80}))",
    re.I,
)
_GROUP = r"\{[^{}A-Za-z]{0,40}\}"
_ATOM = (
    rf"(?:\d[\d,]{{0,40}}(?:\.\d{{1,40}})?(?:[eE][-+]?\d{{1,3}})?|\.\d{{1,40}}|\\[dtc]?frac\s?{_GROUP}\s?{_GROUP}|\\[dtc]?frac\d\d"
    rf"|\\sqrt\s?{_GROUP}|\\pi|\([-+*/^.\d\s]{{1,40}}\))"
)
_JOIN = r"(?:\s?(?:\\times|\\cdot|[*/^])\s?|\s?\^\s?(?=\{)|\s(?=\d{1,3}/\d)|(?=\\))"
_SPAN = re.compile(
    rf"(?P<sign>(?<![\w)}}\s])-\s?|(?<=[\s=:(])[-+]\s?(?=[\d.\\$])|^\s?[-+]\s?)?\$?(?P<body>{_ATOM}(?:{_JOIN}(?:-?{_ATOM}|\{{-?\d{{1,4}}\}})){{0,6}})(?P<percent>\s?\\?%)?"
)
_UNIT_WORD = re.compile(r"(?:\\text\{|[^\W\d_]{2,}|(?:st|nd|rd|th)\b)")
_BEFORE = re.compile(
    r"[A-Za-z}\])][_^]\{?$|[A-Za-z_^]$|[A-Za-z]\^?-$|\d[.,]$|\b[A-Za-z]\s?[-+*/]\s?$"
    r"|\\(?:log|ln|lg|exp|sin|cos|tan|sqrt|frac|binom)(?:_\S{1,3})?\s?\(?\{?$"
)
_BEHIND = re.compile(
    r"[A-Za-z_^!]|\s?[-+*/^]\s?(?:[A-Za-z](?![A-Za-z])|\\|\()"
    r"|\\(?!text|\)|\]|\$|%|,|;|\\|\s|end|mathrm|circ|quad|approx|cdot\s?\\text)"
)
_EITHER = re.compile(r"\s{0,3}(?:\\text\{)?\s{0,3}(?:,?\s{0,2}\bor\b|/|\boder\b|或|\bou\b)[\s}]{0,3}")


def grade_numeric(
    gold: Any,
    prediction: str,
    row: Mapping[str, Any] | None = None,
    *,
    absolute: float = 0.0,
    relative: float = 0.0,
    extraction: Literal["protocol", "robust"] = "robust",
) -> Grade:
    r"""Compare the number of a response with the gold number: ``|answer - gold| <= max(absolute, relative * |gold|)``.

    The answer stands in the last answer tag, else in the last box, else in a JSON ``answer`` field (DynaMath asks for
    ``short answer``); the first of these that is there decides, even if it holds no number. It is read whole, as a
    formula: ``2\pi``, ``10^{-3}``, ``2\frac{1}{2}``, ``1,200 km/h``; ``x^2`` is no number. In prose the last number
    counts, but not digits that belong to a variable or a unit, and nothing where two are offered (``3 or 5``).
    A percentage is both readings: 50 % is .5 and 50.

    Args:
        gold: A number, or text that holds one.
        prediction: The response.
        row: Not used.
        absolute: Tolerance in the units of the answer.
        relative: Tolerance as a share of the gold number.
        extraction: ``protocol``: tag, box or field, or a response that is nothing but a number; ``robust``: also the
            last number of prose.

    Raises:
        ValueError: if the gold answer holds no number, or for another ``extraction``.
    """
    check_extraction(extraction)
    expected = gold_text(gold)
    if expected is None:
        return unknown("no_gold")
    targets = _read(expected, prose=True)
    if targets is None:
        raise ValueError(f"the gold answer {expected[:40]!r} is no number")
    visible = strip_reasoning(prediction) if extraction == "robust" else strip_thinking(prediction)
    if visible is None:
        return Grade(False, 0.0, reason="truncated")
    marked = _marked(visible)
    text = visible if marked is None else marked
    answer = _read(text, prose=extraction == "robust" or marked is not None)
    if answer is None:
        return Grade(False, 0.0, reason="no_answer")
    return verdict(any(_close(v, t, absolute, relative) for v in answer[1] for t in targets[1]), answer[0])


def _marked(text: str) -> str | None:
    """What a response marks as its answer; ``""`` is an empty answer."""
    for piece in (last_answer_tag(text), last_box(text)):
        if piece is not None:
            return last_box(piece) if r"\boxed" in piece and last_box(piece) is not None else piece
    fields = _JSON.findall(text)
    return "".join(fields[-1]) if fields else None


def _read(text: str, *, prose: bool) -> tuple[str, tuple[Value, ...]] | None:
    """The number of a text, as it is written and what it may mean."""
    text = text.strip()
    value = evaluate(text)
    if value is not None:
        return text, _readings(value, is_percentage(text))
    numbers = _numbers_in(ascii_notation(text)) if prose else []
    return numbers[-1] if numbers else None


def _numbers_in(text: str) -> list[tuple[str, tuple[Value, ...]]]:
    """Numbers in prose, in order; those that are offered as alternatives are left out."""
    results: list[tuple[str, tuple[Value, ...]]] = []
    end, refused = -1, False
    for match in _SPAN.finditer(text):
        joined = end >= 0 and match.start() - end < 24 and _EITHER.fullmatch(text, end, match.start()) is not None
        begins = match.start("body")
        end = match.end()
        if _belongs_to_a_name(text, begins) or _is_symbolic(text, match.end("body"), match["percent"]):
            refused = False
            continue
        body = match["body"].rstrip(",")
        value = evaluate(("-" if (match["sign"] or "").strip() == "-" else "") + body)
        if value is None:
            continue
        number = ((match["sign"] or "").strip() + body, _readings(value, match["percent"] is not None))
        if joined and (refused or (results and results[-1][1] != number[1])):
            if not refused:
                results.pop()
            refused = True
            continue
        refused = False
        results.append(number)
    # Where the last thing that is said are alternatives, no earlier number is the answer.
    return [] if refused else results


def _belongs_to_a_name(text: str, start: int) -> bool:
    """Whether a variable, a function or an operation stands right before a number: ``x_2``, ``log 3``, ``x + 3``."""
    return _BEFORE.search(text[max(0, start - 16) : start]) is not None


def _is_symbolic(text: str, end: int, percent: str | None) -> bool:
    r"""Whether a variable or an operation stands right behind a number: ``2x``, ``3\sin``, ``2^n``, ``3 + x``."""
    behind = text[end : end + 24]
    return not percent and _UNIT_WORD.match(behind) is None and _BEHIND.match(behind) is not None


def _readings(value: Value, percent: bool) -> tuple[Value, ...]:
    return (value, value / 100) if percent else (value,)


def _close(value: Value, target: Value, absolute: float, relative: float) -> bool:
    # The tolerance is meant in decimals: 0.3 - 0.299 is more than 0.001 in binary.
    if isinstance(value, Fraction) and isinstance(target, Fraction) and not absolute and not relative:
        return value == target
    v, t = as_float(value), as_float(target)
    return (
        math.isfinite(v)
        and math.isfinite(t)
        and abs(v - t) <= max(absolute, relative * abs(t)) + 1e-12 * max(1.0, abs(t))
    )
