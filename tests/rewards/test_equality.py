import math

import pytest

from lit_uniopd.rewards.equality import equal_evalplus, equal_lcb, equal_stdio
from lit_uniopd.rewards.oracles import ORACLES
from lit_uniopd.sandbox import Foreign

NAN, INF = math.nan, math.inf


def nested(value, depth):
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("expected", "actual", "equal"),
    [
        (3, 3, True), (3, 3.0, True), (3.0, 3, True), (True, 1, True), (0, False, True), (1, True, True),
        (3, 4, False), (3, "3", False), ("a", "a", True), ("a", b"a", False), (None, None, True), (None, 0, False),
        (None, False, False), ("", None, False), (0, None, False), (b"a", b"a", True), (1j, 1j, True),
        ([1, 2], [1, 2], True), ([1, 2], (1, 2), False), ((1, 2), [1, 2], False), ((1, 2), (1, 2), True),
        ([1, 2], [2, 1], False), ([1, 2], [1, 2, 3], False), ([1], [], False), ([], [], True), ([], (), False),
        ([], None, False), ([[1]], [(1,)], False), ([(1, [2])], [(1, [2])], True), ([(1, [2])], [(1, (2,))], False),
        ({"a": [1]}, {"a": [1]}, True), ({"a": [1]}, {"a": (1,)}, False), ({"a": 1}, {"b": 1}, False),
        ({"a": 1}, {"a": 1, "b": 2}, False), ({}, {}, True), ({}, [], False), ({1: 2}, {1.0: 2}, True),
        ({"b": 1, "a": 2}, {"a": 2, "b": 1}, True), ({1, 2}, {2, 1}, True), ({1}, [1], False), ({1}, {1, 2}, False),
        ({(1,)}, {(1,)}, True), (set(), {}, False), ({1}, frozenset({1}), True), ("ab", ["a", "b"], False),
        (0.3, 0.1 + 0.2, True), (1.0, 1.0000005, True), (1.0, 1.00001, False), (1e9, 1e9 + 100, True),
        (1e9, 1e9 + 10_000, False), (0.0, 1e-7, True), (0.0, 1e-5, False), (1.0, "1.0", False), (1.0, None, False),
        (1, 1.0000001, False), (1.0, 10**400, False), (10**400, 10**400, True), (10**400, 1.0, False),
        ([0.3, 0.6], [0.1 + 0.2, 0.6], True), ([[0.3]], [[0.1 + 0.2]], False), ((0.3,), [0.3], False),
        ({"a": 0.3}, {"a": 0.1 + 0.2}, False), ([0.3, "x"], [0.1 + 0.2, "x"], False), ((0.3, 1.0), (0.1 + 0.2, 1), True), ([0.3, 1], [0.3, 1.0000001], False),
        (NAN, NAN, False), ([NAN], [NAN], False), ({"a": NAN}, {"a": NAN}, False), ({NAN}, {NAN}, False),
        ({(NAN, 1)}, {(NAN, 1)}, False), (1.0, NAN, False), (INF, INF, True), (INF, -INF, False), (INF, 1e308, False),
        (1e308, INF, False), (-0.0, 0.0, True),
    ],
)  # fmt: skip
def test_evalplus(expected, actual, equal):
    assert equal_evalplus(expected, actual) is equal


@pytest.mark.parametrize(
    ("expected", "actual", "atol", "equal"),
    [(1.0, 1.0009, 1e-3, True), (1.0, 1.002, 1e-3, False), (1, 1.0009, 1e-3, False), (1, 2, 1.0, True), ([[1.0]], [[1.0009]], 1e-3, True), ([[1.0], [1.0, 2.0]], [[1.0], [1.0009, 2.0]], 1e-3, False),
     ([[1.0, 1.0]], [[1.0009], [1.0]], 1e-3, False), ({"a": 1.0}, {"a": 1.0009}, 1e-3, False), ([1.0], [1.0009], 1e-3, True),
     (1.0, 1 + 5e-7, 1e-9, False), (True, 0.9999, 1e-3, False), (NAN, NAN, 1e-3, False), (INF, 1.0, 1e-3, False),
     ("a", "b", 1e-3, False)],
)  # fmt: skip
def test_evalplus_with_the_tolerance_of_a_task(expected, actual, atol, equal):
    assert equal_evalplus(expected, actual, atol) is equal


@pytest.mark.parametrize(
    ("expected", "actual", "equal"),
    [
        (True, Foreign(True, "other"), True), (3, Foreign(3, "other"), True), (3, Foreign(4, "other"), False), ([3], Foreign(3, "other"), False),
        (0.3, Foreign(0.3, "other"), True), (0.3, Foreign(0.1 + 0.2, "other"), False), ((1, 2), Foreign((1, 2), "other"), True),
        ((0.3, 1.0), Foreign((0.1 + 0.2, 1.0), "other"), False), ([1, 2], Foreign((1, 2), "other"), False), (NAN, Foreign(NAN, "other"), False),
        (0.1, Foreign(0.10000000149011612, "single"), True), (0.1, Foreign(0.0999755859375, "half"), True), (0.1, Foreign(0.0999755859375, "single"), False),
        (1e300, Foreign(INF, "single"), False), (3, Foreign(3.0, "single"), True), ([1, 2], Foreign([1, 2], "array"), False),
        ([3], Foreign([3], "array"), True), ((3,), Foreign([3], "array"), True), (3, Foreign(3, "array"), True), (3, Foreign([3], "array"), False),
        ([[3]], Foreign([[3]], "array"), True), ([3, 3], Foreign([3], "array"), False), ([], Foreign([], "array"), False), ([4], Foreign([3], "array"), False),
    ],
)  # fmt: skip
def test_evalplus_on_values_of_other_types(expected, actual, equal):
    assert equal_evalplus(expected, actual) is equal


def test_a_set_of_colliding_numbers_is_not_built():
    modulus = 2**61 - 1
    colliding = CountedInts(i * modulus for i in range(20_000))
    assert ORACLES["set_equal"]([], [1, 2], colliding, 0.0) is False
    assert colliding.read < 100
    assert ORACLES["set_equal"]([], [1, 2], [1, 2] * 50_000, 0.0) is True
    assert ORACLES["set_equal"]([], list(range(5000)), list(range(5000)), 0.0) is True


class CountedInts(list):
    """A list that counts how many of its items were read."""

    read = 0

    def __iter__(self):
        for item in super().__iter__():
            self.read += 1
            yield item


def test_long_output_is_not_taken_apart():
    assert not equal_stdio("1\n2", "1\n" * 3_000_000)
    assert not equal_stdio("1 2", "1 " * 3_000_000)


@pytest.mark.parametrize(
    ("expected", "actual", "equal"),
    [([1, 2], (1, 2), True), ([[1]], ([1],), True), ([[1]], ((1,),), False), ((1,), [1], False), ([1], [1.0], True), (0.3, 0.1 + 0.2, False),
     (True, 1, True), ("a", "a", True), ([1], [2], False), ([1], {1}, False), (None, None, True), (NAN, NAN, False),
     ([], (), True), ([[1, 2], [3]], [(1, 2), [3]], False), ({"a": [1]}, {"a": (1,)}, False), ("1", 1, False)],
)  # fmt: skip
def test_lcb(expected, actual, equal):
    assert equal_lcb(expected, actual) is equal


@pytest.mark.parametrize(
    ("expected", "actual", "equal"),
    [
        ("1\n", "1", True), ("1\n2\n", "1\n2", True), ("1\n2", "1 \n  2\n\n\n", True), ("1", "\n\n1\n", True),
        ("1\n\n2", "1\n2", False), ("1\n2", "1 2", False), ("1", "1\n1", False), ("", "", True), ("", " \n", True), ("", "0", False),
        ("3", "3.0", True), ("3.0", "3", True), ("3", "3.1", False), ("1 2 3", "1  2 3.0", True), ("0.3", "0.30000000000000004", False),
        ("100", "1e2", True), ("-0", "0", True), ("007", "7", True), ("+5", "5", True), ("1 2", "1 2 3", False),
        ("yes", "yes", True), ("yes", "Yes", False), ("a b", "a  b", False), ("yes 3", "yes 3.0", False), ("nan", "nan", True),
        ("nan", "NaN", False), ("snan", "sNaN 1", False), ("snan", "sNaN", False), ("9" * 5000, "9" * 5000 + ".0", True),
        ("9" * 5000, "9" * 4999 + "8.0", False), ("1e999999999", "1", False), ("1\r\n2\r\n", "1\n2\n", True), ("0.1", ".1", True),
        ("12345678901234567890", "12345678901234567891", False), ("[1, 2]", "[1,2]", False), ("½", "0.5", False),
    ],
)  # fmt: skip
def test_stdio(expected, actual, equal):
    assert equal_stdio(expected, actual) is equal


@pytest.mark.parametrize("equal", [equal_evalplus, equal_lcb])
def test_depth_is_no_matter(equal):
    depth = 100_000
    assert equal(nested(1, depth), nested(1, depth))
    assert not equal(nested(1, depth), nested(2, depth))
    assert not equal(nested(1, depth), nested(1, depth + 1))


@pytest.mark.parametrize(
    ("name", "arguments", "expected", "actual", "atol", "accepted"),
    [
        ("find_zero", [[-1, 2]], None, 0.5, 1e-4, True),
        ("find_zero", [[-6, 11, -6, 1]], 1.0, 3.00001, 1e-4, True),
        ("find_zero", [[-1, 2]], 0.5, 0.6, 1e-4, False),
        ("find_zero", [[-1, 2]], 0.5, NAN, 1e-4, False),
        ("find_zero", [[1, 0, 1, 1]], 0.5, 1e300, 1e-4, False),
        ("find_zero", [[-1, 2]], 0.5, "0.5", 1e-4, False),
        ("find_zero", [[-1, 2]], 0.5, None, 1e-4, False),
        ("set_equal", [], (4, 5), [5, 4, 4], 0.0, True),
        ("set_equal", [], (4, 5), [5], 0.0, False),
        ("set_equal", [], [], None, 0.0, False),
        ("set_equal", [], ["a"], "a", 0.0, False),
        ("set_equal", [], [1], [[1]], 0.0, False),
        ("or_true", [36, 57], False, True, 0.0, True),
        ("or_true", [36, 57], False, False, 0.0, True),
        ("or_true", [23, 47], True, False, 0.0, False),
        ("or_true", [36, 57], False, None, 0.0, False),
        ("or_zero", [8], 7, 0, 0.0, True),
        ("or_zero", [8], 7, 7, 0.0, True),
        ("or_zero", [8], 7, 8, 0.0, False),
        ("or_zero", [8], 7, None, 0.0, False),
        ("surface_area", [3, 4], 33, 33, 0.0, True),
        ("surface_area", [3, 4], 33, 35, 0.0, True),  # 9 + 6 * sqrt(1.5^2 + 4^2) = 34.6
        ("surface_area", [3, 4], 33, 34, 0.0, False),
        ("digit_distance", [1, 2], 1, 1, 0.0, True),
        ("digit_distance", [23, 56], 6, 6, 0.0, True),
        ("digit_distance", [123, 256], 7, 7, 0.0, True),
        ("digit_distance", [5, 19], 6, 5, 0.0, True),  # |0 - 1| + |5 - 9|
        ("digit_distance", [5, 19], 6, 4, 0.0, False),
        ("set_equal", [], (1, 2), Foreign([2, 1, 1], "array"), 0.0, True),
        ("set_equal", [], (1, 2), Foreign([[2], [1]], "array"), 0.0, False),
        ("find_zero", [[-1, 2]], None, Foreign(0.5, "other"), 1e-4, True),
        ("or_zero", [8], 7, Foreign(0, "other"), 0.0, True),
        ("found", ["x"], True, True, 0.0, True),
        ("found", ["x"], True, "x", 0.0, True),
        ("found", ["x"], False, None, 0.0, True),
        ("found", ["x"], True, None, 0.0, False),
        ("found", ["x"], True, False, 0.0, False),
    ],
)  # fmt: skip
def test_oracles(name, arguments, expected, actual, atol, accepted):
    assert ORACLES[name](arguments, expected, actual, atol) is accepted
