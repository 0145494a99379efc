"""Numbers within a tolerance (DynaMath's float answers, and the like)."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from lit_uniopd.grade import Grade
from lit_uniopd.rewards.expression import Value, as_float, evaluate, is_percentage
from lit_uniopd.rewards.grade import check_extraction, gold_text, unknown, verdict
from lit_uniopd.rewards.notation import ascii_notation
from lit_uniopd.rewards.text import last_answer_tag, last_box, last_model_box, readable, strip_reasoning, strip_thinking

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
    r"(?!\s?\^\s?\{?\s?\\circ)(?:[A-Za-z_^!]|\s?[-+*/^]\s?(?:[A-Za-z](?![A-Za-z])|\\|\()"
    r"|\\(?!text|\)|\]|\$|%|,|;|\\|\s|end|mathrm|circ|quad|approx|cdot\s?\\text))"
)
_EITHER = re.compile(r"\s{0,3}(?:\\text\{)?\s{0,3}(?:,?\s{0,2}\bor\b|/|\boder\b|或|\bou\b)[\s}]{0,3}")
_RANGE = re.compile(r"[%$\s]{0,3}-\s?\$?")
_LISTED = re.compile(r"\s?[,;、]\s{0,3}(?:(?:and|und|y|et)\s)?|\s(?:and|und|y|et)\s", re.I)
_BETWEEN = re.compile(r"\b(?:between|zwischen|entre)\s?\$?$", re.I)
_DISCLAIMED = re.compile(
    r"(?:\b(?:not|never|(?:more|less|fewer|greater|smaller|larger|higher|lower|rather)\s+than|at\s+(?:least|most)|up\s+to|below|above|under|over|beyond|exceeds?"
    r"|instead\s+of|such\s+as|nicht|statt|mehr\s+als|weniger\s+als|mindestens|höchstens|más\s+de|menos\s+de|al\s+menos|no\s+es"
    r"|plus\s+de|moins\s+de|au\s+moins|pas)|n['’]t)\s{1,3}(?:(?:be|exactly|equal\s+to|about|just|simply)\s{1,3})?\$?$"
    r"|[\w)}$]\s[<>]=?\s$|\\(?:[gl]eq?|neq?|[gl]t)(?![a-z])\s{0,2}$"
    r"|(?:不是|而非|超过|大于|小于|少于|多于|至少|至多|不到)\s?$",
    re.I,
)
"""Right before a number that is a bound or denied, and not the answer."""
_MINUS = re.compile(r"(?<![\d)}])(?<![\d)}]\s)\b(?:minus|negative)\s(?=\d)", re.I)
_SENTENCE = re.compile(r"[.!?。]\s|\n")
_LIST_LENGTH = 3
"""So many numbers in a row are data."""


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
    counts, but not digits that belong to a variable or a unit, and nothing where the last thing said is two numbers
    (``3 or 5``, ``3-5``), a list, a bound (``more than 3``) or a denial (``not 3``).
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
    marked = _marked(visible, model_boxes=extraction == "robust")
    text = visible if marked is None else marked
    answer = _read(text, prose=extraction == "robust" or marked is not None)
    if answer is None:
        return Grade(False, 0.0, reason="no_answer")
    return verdict(any(_close(v, t, absolute, relative) for v in answer[1] for t in targets[1]), answer[0])


def _marked(text: str, *, model_boxes: bool) -> str | None:
    """What a response marks as its answer; ``""`` is an empty answer."""
    for piece in (last_answer_tag(text), last_model_box(text) if model_boxes else None, last_box(text)):
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
    return _answer_in(_MINUS.sub("-", ascii_notation(readable(text)))) if prose else None


@dataclass(frozen=True, slots=True)
class _Number:
    """A number in prose."""

    written: str
    readings: tuple[Value, ...]
    start: int
    end: int


def _answer_in(text: str) -> tuple[str, tuple[Value, ...]] | None:
    """The last number of prose; None where the last thing said offers several, a bound or a denial."""
    answer: _Number | None = None
    previous: _Number | None = None
    refused, listed = False, 1
    for number in _numbers_in(text):
        before = text[max(0, number.start - 40) : number.start].rstrip("+-$")
        listed = listed + 1 if previous and _LISTED.fullmatch(text, previous.end, number.start) else 1
        if previous is not None and _are_alternatives(text, previous, number):
            refused = refused or previous.readings != number.readings
        elif _DISCLAIMED.search(before):
            # "17.5, not 18.5" names the answer before it denies another number.
            refused = answer is None or refused or _SENTENCE.search(text, answer.end, number.start) is not None
            previous = None
            continue
        else:
            refused = listed >= _LIST_LENGTH
        answer, previous = number, number
    return None if answer is None or refused else (answer.written, answer.readings)


def _are_alternatives(text: str, first: _Number, second: _Number) -> bool:
    """Whether two neighbours are offered as one or the other, or as the ends of a range."""
    if second.start - first.end >= 24:
        return False
    if _EITHER.fullmatch(text, first.end, second.start) or _RANGE.fullmatch(text, first.end, second.start):
        return True
    return _LISTED.fullmatch(text, first.end, second.start) is not None and (
        _BETWEEN.search(text, max(0, first.start - 16), first.start) is not None
    )


def _numbers_in(text: str) -> Iterator[_Number]:
    """Numbers in prose, in order, but for digits of a variable or of a formula."""
    for match in _SPAN.finditer(text):
        body = match["body"].rstrip(",")
        if _belongs_to_a_name(text, match.start("body")) or _is_symbolic(text, match.end("body"), match["percent"]):
            continue
        sign = (match["sign"] or "").strip()
        value = evaluate(("-" if sign == "-" else "") + body)
        if value is not None:
            end = match.end() if match["percent"] else match.start("body") + len(body)
            yield _Number(sign + body, _readings(value, match["percent"] is not None), match.start("body"), end)


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
