"""Plain data as tagged bytes, and back.

The child sends results to the parent in this form. Exact types only: an object that merely claims to be an int, or to
equal everything, has no encoding. On demand the result of a call may also be `Foreign`: a numpy scalar, a Fraction, a
named tuple or an IntEnum travels as the plain value that it equals. Decoding trusts nothing: size, depth, number of
nodes and equal hashes of keys are bounded, so that a forged message costs the parent no more than an honest one.
"""

import struct
import sys
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from numbers import Rational
from typing import Any, Literal

ForeignKind = Literal["other", "half", "single", "array"]
MAX_DEPTH = 200
MAX_NODES = 2_000_000
MAX_EQUAL_HASHES = 64
"""Keys of one container that may share a hash; building a dict is quadratic in this."""


class NotPlainError(ValueError):
    """The value has a type without an encoding, is cyclic, or is nested too deep."""


class TooLargeError(ValueError):
    """The encoding has too many bytes or nodes."""


class MalformedError(ValueError):
    """The bytes are not an encoding."""


class Foreign:
    """A value of a type that is not plain data.

    Args:
        value: plain data: what it equals; for an array, its items in nested lists.
        kind: half, single: a numpy float of so few bits that it equals what rounds to it; array: a numpy array.
    """

    __slots__ = ("kind", "value")

    def __init__(self, value: Any, kind: ForeignKind) -> None:
        self.value, self.kind = value, kind


_FLOAT, _COMPLEX, _SIZE = struct.Struct("<d"), struct.Struct("<dd"), struct.Struct("<I")


def encode(value: Any, max_bytes: int, foreign: bool = False) -> bytes:
    """The tagged bytes of a value: None, bool, int, float, complex, str, bytes, list, tuple, set, frozenset or dict.

    ``Counter``, ``OrderedDict`` and ``defaultdict`` become dicts. Any other type, subclasses included, is refused.

    Args:
        value: to encode.
        max_bytes: most bytes.
        foreign: let `decode` return a `Foreign` where the value itself is not plain data but equals some; inside
            containers such values become what they equal.

    Raises:
        NotPlainError: if a type has no encoding, or the nesting is deeper than `MAX_DEPTH` (as in a cycle).
        TooLargeError: if there are more than ``max_bytes`` bytes or `MAX_NODES` nodes.
    """
    out = bytearray()
    if foreign and type(value) not in _CONTAINERS and type(value) not in _LEAVES:
        name, value = _plain_array(value) or (_FLOAT_KINDS.get(type(value).__name__, "other"), _plain(value))
        out += _FOREIGN_TAG + _FOREIGN_KINDS[name]
    stack: list[Iterator[Any]] = [iter((value,))]
    nodes = 0
    while stack:
        for item in stack[-1]:
            nodes += 1
            if nodes > MAX_NODES or len(out) > max_bytes:
                raise TooLargeError(f"more than {max_bytes} bytes or {MAX_NODES} items")
            kind = type(item)
            if foreign and kind not in _CONTAINERS and kind not in _LEAVES:
                item = _plain(item)
                kind = type(item)
            if kind in _CONTAINERS:
                if len(stack) > MAX_DEPTH:
                    raise NotPlainError(f"nested deeper than {MAX_DEPTH}, or cyclic")
                tag, children = _CONTAINERS[kind]
                out += tag + _SIZE.pack(len(item))
                stack.append(iter(children(item)))
                break
            if kind not in _LEAVES:
                raise NotPlainError(f"{kind.__module__}.{kind.__qualname__} is not plain data")
            if kind in _SIZED and len(item) > max_bytes:
                raise TooLargeError(f"more than {max_bytes} bytes")
            out += _LEAVES[kind](item)
        else:
            stack.pop()
    if len(out) > max_bytes:
        raise TooLargeError(f"more than {max_bytes} bytes")
    return bytes(out)


def decode(data: bytes) -> Any:
    """The value that `encode` was given.

    Raises:
        MalformedError: if the bytes are not one complete encoding within the bounds.
    """
    if data[:1] == _FOREIGN_TAG:
        kinds: list[ForeignKind] = [kind for kind, tag in _FOREIGN_KINDS.items() if tag == data[1:2]]
        if not kinds or data[2:3] == _FOREIGN_TAG:
            raise MalformedError("unknown kind of value")
        return Foreign(decode(data[2:]), kinds[0])
    reader = _Reader(data)
    open_containers: list[tuple[bytes, int, list[Any]]] = []
    for _ in range(MAX_NODES + 1):
        tag = reader.take(1)
        if tag in _BUILDERS:
            count = reader.size() * (2 if tag == b"d" else 1)
            if count > reader.remaining() or len(open_containers) >= MAX_DEPTH:
                raise MalformedError("a container is too long or too deep")
            open_containers.append((tag, count, []))
        else:
            value = reader.leaf(tag)
            if not open_containers:
                return reader.finished(value)
            open_containers[-1][2].append(value)
        while open_containers and len(open_containers[-1][2]) == open_containers[-1][1]:
            tag, _, items = open_containers.pop()
            value = _BUILDERS[tag](items)
            if not open_containers:
                return reader.finished(value)
            open_containers[-1][2].append(value)
    raise MalformedError("too many nodes")


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def remaining(self) -> int:
        return len(self.data) - self.position

    def take(self, count: int) -> bytes:
        if count > self.remaining():
            raise MalformedError("the bytes end too early")
        start, self.position = self.position, self.position + count
        return self.data[start : self.position]

    def size(self) -> int:
        return _SIZE.unpack(self.take(4))[0]

    def leaf(self, tag: bytes) -> Any:
        if tag in _CONSTANTS:
            return _CONSTANTS[tag]
        if tag == b"i":
            return int.from_bytes(self.take(self.size()), "little", signed=True)
        if tag == b"f":
            return _FLOAT.unpack(self.take(8))[0]
        if tag == b"c":
            return complex(*_COMPLEX.unpack(self.take(16)))
        if tag == b"b":
            return self.take(self.size())
        if tag == b"s":
            try:
                return self.take(self.size()).decode("utf-8", "surrogatepass")
            except UnicodeDecodeError as error:
                raise MalformedError("a string is not UTF-8") from error
        raise MalformedError("unknown tag")

    def finished(self, value: Any) -> Any:
        if self.remaining():
            raise MalformedError("bytes follow the value")
        return value


def _sized(tag: bytes, data: bytes) -> bytes:
    return tag + _SIZE.pack(len(data)) + data


def _encode_int(value: int) -> bytes:
    # Binary, since the decimal form of a huge int is quadratic and refused by default.
    return _sized(b"i", value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))


_FOREIGN_TAG = b"y"
_FOREIGN_KINDS: dict[ForeignKind, bytes] = {"other": b"o", "half": b"e", "single": b"f", "array": b"a"}
_FLOAT_KINDS: dict[str, ForeignKind] = {"float16": "half", "float32": "single"}


def _plain_array(value: Any) -> tuple[ForeignKind, Any] | None:
    numpy = sys.modules.get("numpy")
    return ("array", value.tolist()) if numpy is not None and isinstance(value, numpy.ndarray) else None


def _plain(item: Any) -> Any:
    """The plain value that equals an item of another type; itself if there is none that is known to.

    A subclass that keeps the equality of its base equals its base's value. One with an equality of its own (that claims
    to equal everything, say) is not asked.
    """
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(item, numpy.generic):
        return item.item()
    for base, value_of in _BASES.items():
        if isinstance(item, base) and type(item).__eq__ is base.__eq__:
            return value_of(item)
    decimal = sys.modules.get("decimal")
    # By its type, since `__class__` can lie; of subclasses of int, those that keep its equality are done.
    rational = issubclass(type(item), Rational) and not issubclass(type(item), int)
    if rational or (decimal is not None and type(item) is decimal.Decimal):
        return _plain_number(item)
    return item


def _plain_number(item: Any) -> Any:
    """The int or float that equals a Rational or a Decimal exactly; itself without one."""
    if isinstance(item, Rational):
        numerator, denominator = int(item.numerator), int(item.denominator)
    elif item.is_finite():
        numerator, denominator = item.as_integer_ratio()
    else:
        return float(item)
    if denominator == 1:
        return numerator
    try:
        number = numerator / denominator
    except OverflowError:
        return item
    return number if number.as_integer_ratio() == (numerator, denominator) else item


_BASES: dict[type, Callable[[Any], Any]] = {
    int: int.__pos__,
    float: float.__pos__,
    complex: complex.__pos__,
    str: str.__str__,
    bytes: lambda item: bytes.__getitem__(item, slice(None)),
    tuple: lambda item: tuple(tuple.__iter__(item)),
    list: lambda item: list(list.__iter__(item)),
    dict: lambda item: dict(dict.items(item)),
    set: lambda item: set(set.__iter__(item)),
    frozenset: lambda item: frozenset(frozenset.__iter__(item)),
    bytearray: bytes,
    type({}.keys()): set,
}
_CONSTANTS = {b"N": None, b"T": True, b"F": False}
_LEAVES: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: b"N",
    bool: lambda value: b"T" if value else b"F",
    int: _encode_int,
    float: lambda value: b"f" + _FLOAT.pack(value),
    complex: lambda value: b"c" + _COMPLEX.pack(value.real, value.imag),
    str: lambda value: _sized(b"s", value.encode("utf-8", "surrogatepass")),
    bytes: lambda value: _sized(b"b", value),
}
_SIZED = (str, bytes)


def _pairs(value: dict[Any, Any]) -> Iterator[Any]:
    return chain.from_iterable(dict.items(value))


_CONTAINERS: dict[type, tuple[bytes, Callable[[Any], Iterable[Any]]]] = {
    list: (b"l", iter),
    tuple: (b"t", iter),
    set: (b"u", iter),
    frozenset: (b"z", iter),
    **dict.fromkeys((dict, Counter, OrderedDict, defaultdict), (b"d", _pairs)),
}


def _unique(keys: list[Any]) -> list[Any]:
    try:
        hashes = [hash(key) for key in keys]
    except TypeError as error:
        raise MalformedError("a key is not hashable") from error
    if len(keys) > MAX_EQUAL_HASHES and max(Counter(hashes).values()) > MAX_EQUAL_HASHES:
        raise MalformedError("too many keys share a hash")
    return keys


_BUILDERS: dict[bytes, Callable[[list[Any]], Any]] = {
    b"l": lambda items: items,
    b"t": tuple,
    b"u": lambda items: set(_unique(items)),
    b"z": lambda items: frozenset(_unique(items)),
    b"d": lambda items: dict(zip(_unique(items[::2]), items[1::2], strict=True)),
}
