"""Judges of tasks with more than one right answer, by name (EvalPlus' special oracles).

Each takes the arguments of a call, the expected and the actual result, and the task's absolute tolerance.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from lit_uniopd.rewards.equality import equal_evalplus, equal_lcb
from lit_uniopd.sandbox.child.encoding import MAX_EQUAL_HASHES, Foreign

Oracle = Callable[[Sequence[Any], Any, Any, float], bool]


def _find_zero(arguments: Sequence[Any], expected: Any, actual: Any, atol: float) -> bool:
    """HumanEval/32: the polynomial, lowest coefficient first, is near zero at the answer."""
    actual = _plain(actual)
    if type(actual) not in (int, float):
        return False
    try:
        value = sum(c * math.pow(actual, power) for power, c in enumerate(arguments[0]))
    except (OverflowError, ValueError):
        return False
    return abs(value) <= atol


def _set_equal(arguments: Sequence[Any], expected: Any, actual: Any, atol: float) -> bool:
    """Order and repetition do not matter (Mbpp/2, 7, 111, 140, 232, 249, 579, 769)."""
    actual = _plain(actual)
    if not all(isinstance(value, list | tuple | set | frozenset) for value in (expected, actual)):
        return False
    try:
        distinct = _distinct(actual)
        return distinct is not None and equal_evalplus(set(expected), distinct, atol)
    except TypeError:  # not hashable
        return False


def _distinct(items: Iterable[Any]) -> set[Any] | None:
    """The set of some items; None if more of them share a hash than chance allows: building it would take for ever."""
    by_hash: dict[int, list[Any]] = {}
    for item in items:
        same = by_hash.setdefault(hash(item), [])
        if item not in same:
            same.append(item)
        if len(same) > MAX_EQUAL_HASHES:
            return None
    return {item for same in by_hash.values() for item in same}


def _plain(actual: Any) -> Any:
    return actual.value if isinstance(actual, Foreign) else actual


def _truth_or(always: Any) -> Oracle:
    """A constant passes as well as the expected result, since the task's text supports both (Mbpp/164, 295)."""

    def judge(arguments: Sequence[Any], expected: Any, actual: Any, atol: float) -> bool:
        return equal_evalplus(expected, actual, atol) or (
            type(_plain(actual)) in (bool, int, float) and _plain(actual) == always
        )

    return judge


def _surface_area(arguments: Sequence[Any], expected: Any, actual: Any, atol: float) -> bool:
    """Mbpp/581: the pyramid's second number may be read as its height instead of its slant height."""
    if equal_evalplus(expected, actual, atol):
        return True
    edge, height = arguments
    other = round(edge**2 + 2 * edge * math.hypot(edge / 2, height))
    return equal_evalplus(other, actual, atol)


def _digit_distance(arguments: Sequence[Any], expected: Any, actual: Any, atol: float) -> bool:
    """Mbpp/558: digits may be compared position by position, the shorter number padded with zeros."""
    if equal_evalplus(expected, actual, atol):
        return True
    width = max(len(str(number)) for number in arguments)
    first, second = (str(number).zfill(width) for number in arguments)
    other = sum(abs(int(a) - int(b)) for a, b in zip(first, second, strict=True))
    return equal_evalplus(other, actual, atol)


def _pattern_matches(arguments: Sequence[Any], expected: Any, actual: Any, atol: float) -> bool:
    """Mbpp's check_str, text_match_three and text_starta_endb: any result but None says that a pattern matches."""
    return expected == (actual if type(actual) is bool else actual is not None)


def _wrapped(arguments: Sequence[Any], expected: Any, actual: Any, atol: float) -> bool:
    """Labels of PRIME, APPS and TACO: a result may stand in a list of its own, and tuples in a list be lists."""
    rows = [list(row) if type(row) is tuple else row for row in actual] if type(actual) in (list, tuple) else actual
    if equal_lcb(expected, rows):
        return True
    return isinstance(expected, list) and len(expected) == 1 and equal_lcb(expected[0], rows)


ORACLES: Mapping[str, Oracle] = MappingProxyType(
    {
        "find_zero": _find_zero,
        "set_equal": _set_equal,
        "or_true": _truth_or(True),
        "or_zero": _truth_or(0),
        "surface_area": _surface_area,
        "digit_distance": _digit_distance,
        "found": _pattern_matches,
        "wrapped": _wrapped,
    }
)
"""Names that a gold answer may give as ``oracle``."""
