"""The rule of equality gives what the installed EvalPlus gives, on values that programs return."""

import ast
import math
from typing import Any

import pytest

from lit_uniopd.rewards.code import FunctionTask, accepts
from lit_uniopd.sandbox import Sandbox

evalplus = pytest.importorskip("evalplus.eval", reason="evalplus is not installed (pip install --no-deps evalplus)")

EXPECTED = [
    True, 3, 0, 2**70, "a", "", b"a", None, [1, 2], [3], (1, 2), (3,), [], {1, 2}, {"a": 1}, {"a": 0.3}, [[0.3]], [0.3, 1], [True, 3],
    [[1], [2, 3]], {1: (2, 3)}, 1j, [None], [{"a": 0.3}],
]  # fmt: skip
FLOATS = [0.3, 1.0, 0.1, 1e9, 0.0, math.inf, -math.inf, math.nan, [0.3, 1.0], (0.3, 1.0), [0.3], [math.inf, 0.3], [1e9]]
RETURNED = """
import collections, decimal, enum, fractions, math
import numpy as np
P, E = collections.namedtuple("P", "x y"), enum.IntEnum("E", "A B C")
class S(str, enum.Enum):
    A = "a"
class Sub(list):
    pass
third = 0.1 + 0.2
VALUES = [
    True, False, 3, 3.0, 0, 2**70, float(2**70), "a", S.A, "", b"a", bytearray(b"a"), None, [1, 2], (1, 2), [3], (3,), 3 + 0j, [], (), {},
    {1, 2}, frozenset({1, 2}), {1: 0, 2: 0}.keys(), {"a": 1}, {"a": True}, {"a": 0.3}, {"a": third}, [[0.3]], [[third]], [0.3, 1], [third, 1],
    [True, 3], [1, 3], [np.True_, np.int64(3)], [[1], [2, 3]], [[1], (2, 3)], {1: (2, 3)}, {np.int64(1): (2, np.float64(3))}, 1j, np.complex128(1j),
    [None], [{"a": 0.3}], np.True_, np.False_, np.int64(3), np.uint8(3), np.float64(3), np.float32(3), np.int64(0), np.str_("a"), np.bytes_(b"a"),
    np.array(3), np.array([1, 2]), np.array([3, 3]), np.array([[1, 2]]), P(1, 2), P(1, 3), E.C, E.B, [E.A, E.B], fractions.Fraction(3), fractions.Fraction(1, 3),
    decimal.Decimal(3), decimal.Decimal("0.3"), collections.Counter("a"), collections.OrderedDict(a=1), collections.defaultdict(int, a=1), Sub([1, 2]),
    range(1, 3), iter([1, 2]), collections.deque([1, 2]), 0.3, third, 0.3000005, 0.30001, np.float64(0.3), np.float64(third), np.float32(0.3), np.float16(0.1),
    np.float32(0.1), 1.0, 1, 1.0000005, 1e9, 1e9 + 90, 1e9 + 200, 10**9, 0.0, -0.0, 1e-7, 1e-5, math.inf, -math.inf, math.nan, np.float64(math.nan),
    np.inf, 10**400, [0.3, 1.0], [third, 1], (third, 1.0), P(third, 1.0), P(0.3, 1.0), [third, True], [third, 1.0, 1.0], [third, None], [third, "1"],
    [third, [1.0]], [np.float64(third), 1.0], [np.float32(0.3), 1.0], np.array([0.3, 1.0]), [third], [math.inf, third], [1e308, 0.3], [math.nan, 0.3],
    [1e9 + 90], [0.1 + 0.2j], [fractions.Fraction(1, 4), 1.0], object(), ..., lambda: 3, [third, 1 + 0j], "0.3", decimal.Decimal("Infinity"),
]
def f(i):
    return VALUES[i]
"""
STRICTER = {"[[0.3]]", "[third]", "[[third]]", "[np.float32(0.3), 1.0]"}
"""We broadcast nothing (numpy's 3 is not [3], [[0.3]] is not [0.3]), and a float32 inside a list is its exact number."""


@pytest.fixture(scope="module")
def returned():
    calls = [[i] for i in range(200)]
    results = list(Sandbox().calls(RETURNED, "f", calls, timeout=30.0))
    return [result for result in results if not result.message.startswith("IndexError")]


@pytest.mark.parametrize(("golds", "atol"), [(EXPECTED, 0.0), (FLOATS, 0.0), (EXPECTED + FLOATS, 1e-3)])
def test_the_same_values_are_accepted(returned, golds, atol):
    # Apart, since EvalPlus keeps the tolerance of floats for all calls that follow.
    pairs = [(gold, i) for gold in golds for i in range(len(returned))]
    inputs, expected = [[i] for _, i in pairs], [gold for gold, _ in pairs]
    _, theirs = evalplus.untrusted_check(
        "humaneval", RETURNED, inputs, "f", expected, atol, [5.0] * len(pairs), fast_check=False
    )
    names = _names()
    assert len(theirs) == len(pairs)
    assert len(names) == len(returned) > 100
    stricter = set()
    for (gold, i), accepted in zip(pairs, theirs, strict=True):
        ours = accepts(FunctionTask("f", [[0]], [gold], atol=atol), 0, returned[i])
        if ours != bool(accepted):
            stricter.add((repr(gold), names[i], ours))
    assert all(
        not ours and (name in STRICTER or (name.startswith("np.") and gold[0] in "[(")) for gold, name, ours in stricter
    ), stricter


def _names():
    """The source of each value."""
    tree = ast.parse(RETURNED)
    values: Any = next(node for node in tree.body if ast.unparse(node).startswith("VALUES"))
    return [ast.get_source_segment(RETURNED, node) or "" for node in values.value.elts]
