"""Plain data as JSON and back without loss: tuples, sets, keys of any kind, nan, integers of any size.

Gold answers of programs pass in this form through records, caches and fingerprints, whose JSON has no tuples.
"""

import json
import math
from typing import Any

_SMALL = 1 << 53
"""Integers below this are written as they are; parsers of JSON agree on them."""


def dump_tagged(value: Any) -> str:
    """The text of a value; equal values of equal types give equal texts, sets included.

    Raises:
        TypeError: if a part is not None, bool, int, float, complex, str, bytes, list, tuple, set, frozenset or dict.
    """
    return json.dumps(_tag(value), separators=(",", ":"), allow_nan=False)


def load_tagged(text: str) -> Any:
    """The value of a text that `dump_tagged` wrote.

    Raises:
        ValueError: if `dump_tagged` cannot have written it.
    """
    return _untag(json.loads(text))


def _tag(value: Any) -> Any:
    kind = type(value)
    if value is None or kind in (bool, str) or (kind is int and abs(value) < _SMALL):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is list:
        return [_tag(item) for item in value]
    if kind is dict:
        return {"dict": [[_tag(key), _tag(item)] for key, item in value.items()]}
    if kind in _SEQUENCES:
        return {kind.__name__: [_tag(item) for item in value]}
    if kind in _SETS:
        return {kind.__name__: sorted((_tag(item) for item in value), key=json.dumps)}
    if kind in _LEAVES:
        return {kind.__name__: _LEAVES[kind][0](value)}
    raise TypeError(f"{kind.__qualname__} is no plain data")


def _untag(value: Any) -> Any:
    if isinstance(value, list):
        return [_untag(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise ValueError("a tagged value has one tag")
    ((tag, content),) = value.items()
    if tag == "dict":
        return {_untag(key): _untag(item) for key, item in content}
    for kind in (*_SEQUENCES, *_SETS):
        if tag == kind.__name__:
            return kind(_untag(item) for item in content)
    for kind, (_, load) in _LEAVES.items():
        if tag == kind.__name__:
            return load(content)
    raise ValueError(f"{tag!r} is no tag of plain data")


_SEQUENCES = (tuple,)
_SETS = (set, frozenset)
_LEAVES: dict[type, tuple[Any, Any]] = {
    # Hexadecimal: the decimal form of a huge integer takes quadratic time, and Python refuses it.
    int: (hex, lambda text: int(text, 16)),
    float: (repr, float),
    complex: (repr, complex),
    bytes: (bytes.hex, bytes.fromhex),
}
