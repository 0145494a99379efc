"""When the result of a program is the expected one.

Values come out of the sandbox as plain data of exact types, so ``==`` cannot be hijacked here. Nothing recurses:
results may be nested as deep as the sandbox lets them.
"""

import math
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

TOLERANCE = 1e-6
"""Of floats, relative and absolute, where a task sets nothing else."""
_RELATIVE = 1e-7
"""Relative part beside a tolerance that a task sets, as in EvalPlus."""


def equal_evalplus(expected: Any, actual: Any, atol: float = 0.0) -> bool:
    """Equality as EvalPlus defines it for HumanEval+ and MBPP+.

    Python's ``==`` (3 equals 3.0 and True equals 1, a list never equals a tuple), except that floats, also those inside
    lists, tuples and values of dicts, may differ by `TOLERANCE`, relative or absolute. nan equals nothing.

    Args:
        expected: decides by its type: an expected int has no tolerance.
        actual: what the program returned.
        atol: the task's own absolute tolerance, for ints too; 0: none.
    """
    return all(_equal_leaves(a, b, atol) for a, b in _pairs(expected, actual, tuple_for_list=False))


def equal_lcb(expected: Any, actual: Any) -> bool:
    """Equality as LiveCodeBench defines it for functions: ``==``, but a tuple may stand for an expected list."""
    return all(not _is_nan(b) and a == b for a, b in _pairs(expected, actual, tuple_for_list=True))


def equal_stdio(expected: str, actual: str) -> bool:
    """Equality of printed output as LiveCodeBench defines it.

    Outer blanks are stripped from the output and from each line; there must be as many lines. Two lines are equal as
    text, or if both hold the same exact numbers and nothing else (3.0 is 3; no float is involved).
    """
    expected_lines, actual_lines = expected.strip().split("\n"), actual.strip().split("\n")
    return len(expected_lines) == len(actual_lines) and all(map(_equal_lines, expected_lines, actual_lines))


_DIFFERENT = (False, True)


def _pairs(expected: Any, actual: Any, *, tuple_for_list: bool) -> Iterator[tuple[Any, Any]]:
    """The pairs of leaves to compare; at the first difference in structure, a pair that is never equal."""
    stack = [(expected, actual)]
    while stack:
        a, b = stack.pop()
        if type(a) in (list, tuple):
            same_kind = type(a) is type(b) or (tuple_for_list and type(a) is list and type(b) is tuple)
            if not same_kind or len(a) != len(b):
                yield _DIFFERENT
                return
            stack.extend(zip(a, b, strict=True))
        elif isinstance(a, dict):
            if not isinstance(b, dict) or a.keys() != b.keys() or any(map(_is_nan, a)):
                yield _DIFFERENT
                return
            stack.extend((value, b[key]) for key, value in a.items())
        else:
            yield a, b


def _equal_leaves(expected: Any, actual: Any, atol: float) -> bool:
    if _is_nan(expected) or _is_nan(actual):
        return False
    if expected == actual:
        return True
    if not _is_number(expected) or not _is_number(actual) or not (atol or type(expected) is float):
        return False
    try:
        if atol:
            return abs(expected - actual) <= atol + _RELATIVE * abs(expected) < math.inf
        return math.isclose(expected, actual, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    except OverflowError:  # an int beyond all floats
        return False


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_nan(value: Any) -> bool:
    """Whether a value is nan, or a set or key that holds nan: ``==`` on containers calls the same nan object equal."""
    if not isinstance(value, set | frozenset | tuple):
        return type(value) in (float, complex) and value != value
    stack: list[Any] = list(value)
    while stack:
        item = stack.pop()
        if isinstance(item, frozenset | tuple):
            stack.extend(item)
        elif type(item) in (float, complex) and item != item:
            return True
    return False


def _equal_lines(expected: str, actual: str) -> bool:
    expected, actual = expected.strip(), actual.strip()
    if expected == actual:
        return True
    expected_tokens, actual_tokens = expected.split(), actual.split()
    if len(expected_tokens) != len(actual_tokens):
        return False
    try:
        return all(Decimal(a) == Decimal(b) for a, b in zip(expected_tokens, actual_tokens, strict=True))
    except InvalidOperation:  # not numbers, or signalling nan
        return False
