"""When the result of a program is the expected one.

Values come out of the sandbox as plain data of exact types, or as `Foreign` values that stand for some, so ``==``
cannot be hijacked here. Nothing recurses: results may be nested as deep as the sandbox lets them.
"""

import math
import struct
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any

from lit_uniopd.sandbox.child.encoding import Foreign

TOLERANCE = 1e-6
"""Absolute, of expected floats, where a task sets none."""
_RELATIVE = 1e-7
"""Relative part beside the absolute tolerance."""
_FORMATS = {"half": "<e", "single": "<f"}


def equal_evalplus(expected: Any, actual: Any, atol: float = 0.0) -> bool:
    """Equality as EvalPlus 0.3.1 defines it for HumanEval+ and MBPP+.

    Python's ``==``: 3 equals 3.0 and True equals 1, numpy's True, Fraction(2) and an IntEnum equal their number, a list
    never equals a tuple but a named tuple does. An expected float, or list or tuple of floats alone, may be missed by
    ``TOLERANCE + 1e-7 * |expected|``, if the result has the very type of what is expected (numpy.float64 is not float)
    and the same shape. A numpy array has no truth value unless it has one item. nan equals nothing.

    Unlike EvalPlus nothing is broadcast: an array of one item is not that item, though numpy calls them equal.

    Args:
        expected: decides by its type: an expected int has no tolerance.
        actual: what the program returned.
        atol: the task's own absolute tolerance, for whatever is made of numbers; 0: none.
    """
    if _equal(expected, actual):
        return True
    if isinstance(actual, Foreign) or type(actual) is not type(expected) or not (atol or _is_floats(expected)):
        return False
    shape, actual_shape = _shape(expected), _shape(actual)
    return shape is not None and shape == actual_shape and _close(expected, actual, atol or TOLERANCE)


def equal_lcb(expected: Any, actual: Any) -> bool:
    """Equality as LiveCodeBench defines it for functions: ``==``, but a tuple may be returned for an expected list.

    Only the result itself: a tuple inside of it is no list.
    """
    return _equal(expected, list(actual) if type(actual) is tuple and type(expected) is list else actual)


def equal_stdio(expected: str, actual: str) -> bool:
    """Equality of printed output as LiveCodeBench defines it.

    Outer blanks are stripped from the output and from each line; there must be as many lines. Two lines are equal as
    text, or if both hold the same exact numbers and nothing else (3.0 is 3; no float is involved).
    """
    expected, actual = expected.strip(), actual.strip()
    if expected.count("\n") != actual.count("\n"):  # before millions of lines are made into a list
        return False
    return all(map(_equal_lines, expected.split("\n"), actual.split("\n")))


_DIFFERENT = (False, True)


def _equal(expected: Any, actual: Any) -> bool:
    if isinstance(actual, Foreign):
        if actual.kind == "array":
            shape = _shape(actual.value)
            if shape is None or math.prod(shape) != 1:
                return False  # numpy refuses to call it true
            expected = _lists(expected)
        elif actual.kind in _FORMATS and type(expected) is float:
            expected = _rounded(expected, _FORMATS[actual.kind])
        actual = actual.value
    return all(not _is_nan(a) and not _is_nan(b) and a == b for a, b in _pairs(expected, actual))


def _pairs(expected: Any, actual: Any) -> Iterator[tuple[Any, Any]]:
    """The pairs of leaves to compare; at the first difference in structure, a pair that is never equal."""
    stack = [(expected, actual)]
    while stack:
        a, b = stack.pop()
        if type(a) in (list, tuple):
            if type(a) is not type(b) or len(a) != len(b):
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


def _is_floats(value: Any) -> bool:
    """Whether a value is a float, or a list or tuple of floats alone: the one case with a tolerance by default."""
    if type(value) in (list, tuple):
        return bool(value) and all(type(item) is float for item in value)
    return type(value) is float


def _shape(value: Any) -> tuple[int, ...] | None:
    """Lengths of nested lists or tuples, as numpy sees them; None if they are ragged."""
    shape: list[int] = []
    level = [value]
    while level and all(type(item) in (list, tuple) for item in level):
        lengths = {len(item) for item in level}
        if len(lengths) > 1:
            return None
        shape.extend(lengths)
        level = [child for item in level for child in item]
    return None if any(type(item) in (list, tuple) for item in level) else tuple(shape)


def _close(expected: Any, actual: Any, atol: float) -> bool:
    """``numpy.allclose`` of two nests of one shape: everything is a number, and near enough."""
    stack = [(expected, actual)]
    while stack:
        a, b = stack.pop()
        if type(a) in (list, tuple):
            stack.extend(zip(a, b, strict=True))
        elif not _is_number(a) or not _is_number(b) or not _is_near(a, b, atol):
            return False
    return True


def _is_near(expected: Any, actual: Any, atol: float) -> bool:
    try:
        return expected == actual or abs(actual - expected) <= atol + _RELATIVE * abs(expected) < math.inf
    except OverflowError:  # an int beyond all floats
        return False


def _is_number(value: Any) -> bool:
    return type(value) in (bool, int, float, complex)


def _rounded(number: float, format: str) -> float:
    try:
        return struct.unpack(format, struct.pack(format, number))[0]
    except OverflowError:
        return math.nan


def _lists(value: Any) -> Any:
    """Nested tuples as lists, of a value of one item; an array does not tell them apart."""
    depth = 0
    while type(value) in (list, tuple) and len(value) == 1:
        value, depth = value[0], depth + 1
    for _ in range(depth):
        value = [value]
    return value


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
    expected_tokens = expected.split()
    actual_tokens = actual.split(None, len(expected_tokens))  # of a line of any length, no more tokens than that
    if len(expected_tokens) != len(actual_tokens):
        return False
    try:
        return all(Decimal(a) == Decimal(b) for a, b in zip(expected_tokens, actual_tokens, strict=True))
    except InvalidOperation:  # not numbers, or signalling nan
        return False
