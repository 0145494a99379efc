"""Whether the ids of a table are unique, at eight bytes a row."""

from array import array
from collections.abc import Sequence

import numpy as np

from lit_uniopd.errors import UserError


def refuse_repeated_ids(hashes: "array[int]", named_rows: Sequence[tuple[str, str]], option: str) -> None:
    """Refuse ids that two rows share.

    Args:
        hashes: of the ids.
        named_rows: the id and the place of each row; gone through only where hashes are equal.
        option: that names the column of ids.

    Raises:
        UserError: naming the first row whose id another has before it.
    """
    ordered = np.sort(np.frombuffer(hashes, dtype=np.int64)) if hashes else np.empty(0, np.int64)
    repeated = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not repeated:
        return
    where_of: dict[str, str] = {}
    for value, (name, where) in zip(hashes, named_rows, strict=True):
        if value not in repeated:
            continue
        if (first := where_of.setdefault(name, where)) is not where:
            raise UserError(
                f"{where} has the same id {name!r} as {first}; name a column of unique ids by {option}, or set it to "
                '"" to name rows by file and line.'
            )
