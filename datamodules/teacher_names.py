"""The teacher of a row, or several of them with weights, from what its column holds."""

import math
from collections.abc import Mapping
from typing import Any

from lit_uniopd.errors import UserError


def teacher_of(cell: Any, where: str) -> str | dict[str, float] | None:
    """A teacher's name; of several, their weights by name; None: none is named.

    Args:
        cell: a text, a list of names, or a mapping from names to weights. A weight of null is none: so the columns of
            Parquet are filled where a row has fewer names than another.
        where: it stands, for messages.

    Raises:
        UserError: naming where, if it is something else.

    Example:
        >>> teacher_of(["math", "code"], "t.jsonl:1")
        {'math': 1.0, 'code': 1.0}
    """
    if cell is None or isinstance(cell, str):
        return cell or None
    if isinstance(cell, Mapping):
        pairs = list(cell.items())
    elif isinstance(cell, list):
        pairs = [(name, 1.0) for name in cell]
    else:
        raise UserError(
            f"{where} holds a {type(cell).__name__}; write a teacher's name, a list of them, or their weights by name."
        )
    if not all(isinstance(name, str) and name for name, _ in pairs):
        raise UserError(f"{where} must name teachers by texts, and has {cell}; mend it.")
    weights = {name: weight for name, weight in pairs if weight is not None}
    if not all(_is_weight(weight) for weight in weights.values()):
        raise UserError(f"{where} must give teachers positive weights, and has {cell}; leave out those of weight 0.")
    if len({name for name, _ in pairs}) < len(pairs):
        raise UserError(f"{where} names a teacher twice: {cell}; give each one weight.")
    return next(iter(weights)) if len(weights) == 1 else {n: float(w) for n, w in weights.items()} or None


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
