"""The encoding: exact on plain data, closed to everything else, and cheap to decode whatever the bytes."""

import contextlib
import math
import random
import struct
import time
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple

import pytest

from lit_uniopd.sandbox.child.encoding import (
    MAX_DEPTH,
    MAX_EQUAL_HASHES,
    MalformedError,
    NotPlainError,
    TooLargeError,
    decode,
    encode,
)

MB = 1 << 20
PLAIN = [
    None, True, False, 0, -1, 127, 128, -128, -129, 2**64, -(10**5000), 0.0, -0.0, 0.1, math.inf, -math.inf, 5e-324,
    1 + 2j, "", "ünï\ud800\0", b"", b"\xff\0", [], (), set(), frozenset(), {}, [1, [2.0, ("3",)]], {1: {2: [3]}, (4,): None},
    {frozenset({1, 2}), "a"}, [True, 1, 1.0],
]  # fmt: skip


def shape(value):
    """A value with the types of all its parts, so that True, 1 and 1.0 (and 0.0 and -0.0) differ."""
    if isinstance(value, dict):
        return dict, [(shape(k), shape(v)) for k, v in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [shape(item) for item in value]
    if isinstance(value, set | frozenset):
        return type(value), sorted(map(repr, map(shape, value)))
    return type(value), (struct.pack("<d", value) if type(value) is float else value)


@pytest.mark.parametrize("value", PLAIN, ids=range(len(PLAIN)))
def test_plain_data_comes_back_exactly(value):
    assert shape(decode(encode(value, MB))) == shape(value)


def test_nan_keeps_its_bits():
    assert math.isnan(decode(encode(math.nan, MB)))


@pytest.mark.parametrize("value", [Counter("aab"), OrderedDict(a=1), defaultdict(list, a=[1])])
def test_standard_dicts_come_back_as_dicts(value):
    back = decode(encode(value, MB))
    assert type(back) is dict
    assert back == dict(value)


class AlwaysEqual:
    def __eq__(self, other):
        return True

    __hash__ = object.__hash__


Point = namedtuple("Point", "x y")
SUBCLASSES = [
    type("Sub", (kind,), {})() for kind in (int, float, str, bytes, list, tuple, set, frozenset, dict, Counter)
]


@pytest.mark.parametrize(
    "value", [AlwaysEqual(), deque([1]), Point(1, 2), object, range(3), bytearray(b"a"), *SUBCLASSES]
)
def test_everything_else_is_refused_at_any_place(value):
    for wrapped in (value, [value], {1: (value,)}):
        with pytest.raises(NotPlainError):
            encode(wrapped, MB)


def test_nesting_is_bounded_and_cycles_end():
    deep: list = []
    for _ in range(MAX_DEPTH - 1):
        deep = [deep]
    assert decode(encode(deep, MB)) == deep
    cyclic: list = []
    cyclic.append(cyclic)
    for value in ([deep], cyclic):
        with pytest.raises(NotPlainError, match="nested"):
            encode(value, MB)


def test_size_is_bounded_without_walking_all_of_it():
    shared: list = []
    for _ in range(100):
        shared = [shared, shared]  # 2**100 nodes
    for value, limit in [("x" * 2000, 1000), (b"x" * 2000, 1000), ([0] * 2000, 1000), (2**80000, 1000), (shared, MB)]:
        with pytest.raises(TooLargeError):
            encode(value, limit)


def test_a_decoder_never_fails_in_another_way():
    rng = random.Random(0)
    sound = encode(PLAIN, MB)
    for _ in range(3000):
        data = bytearray(sound)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with contextlib.suppress(MalformedError):
            decode(bytes(data[: rng.randint(0, len(data))] if rng.random() < 0.5 else data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"i\xff\xff\xff\xff\x01",
        b"l\xff\xff\xff\xff",
        b"NN",
        b"l\x01\0\0\0" * 300 + b"N",
        b"u\x01\0\0\0l\0\0\0\0",
    ],
    ids=["empty", "tag", "size", "count", "trailing", "deep", "unhashable"],
)
def test_malformed_bytes_are_refused(data):
    with pytest.raises(MalformedError):
        decode(data)


def test_keys_made_to_collide_are_refused_before_they_cost_anything():
    """A set of integers with one hash takes quadratic time to build; the child could forge one for free."""
    modulus = 2**61 - 1
    colliding = [i * modulus for i in range(20_000)]
    assert len({hash(key) for key in colliding}) == 1
    body = encode(colliding, 4 * MB)
    start = time.monotonic()
    with pytest.raises(MalformedError, match="hash"):
        decode(b"u" + body[1:])
    assert time.monotonic() - start < 2  # against tens of seconds
    assert len(decode(b"u" + encode(colliding[:MAX_EQUAL_HASHES], MB)[1:])) == MAX_EQUAL_HASHES
