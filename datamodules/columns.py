"""Columns by name, also nested ones: ``reward_model.ground_truth``, ``prompt.0.content``."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

from datamodules.rows import Row
from datamodules.tables import TableArgs
from lit_uniopd.errors import UserError
from lit_uniopd.utils.near_names import did_you_mean

MISSING: Any = object()
LISTED = 40
"""Names of columns in a message."""
SEEN = 20
"""Rows in which nested columns are looked for, to be listed."""


class Columned(Protocol):
    """Rows, and the names of their columns."""

    @property
    def columns(self) -> list[str]: ...

    def __iter__(self) -> Iterator[Row]: ...


def lookup(values: Any, path: str, default: Any = None) -> Any:
    """The cell of a column.

    Args:
        values: of a row.
        path: name of a column; behind dots stand keys of mappings and places in lists, from 0. A name that has dots
            itself goes first.
        default: if it is not there.
    """
    if isinstance(values, Mapping):
        if path in values:
            return values[path]
        head, dot, tail = path.partition(".")
        while dot:
            if head in values and (cell := lookup(values[head], tail, MISSING)) is not MISSING:
                return cell
            more, dot, tail = tail.partition(".")
            head = f"{head}.{more}"
        return default
    head, dot, tail = path.partition(".")
    if not (isinstance(values, list) and head.isdecimal() and int(head) < len(values)):
        return default
    return lookup(values[int(head)], tail, default) if dot else values[int(head)]


def columns_of(
    source: TableArgs,
    rows: Columned,
    flag: str,
    *,
    roles: Sequence[str],
    required: Sequence[str],
    published: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Role (``answer``) -> the column that holds it, for the roles whose column exists.

    Args:
        source: has a ``<role>_column`` for each role.
        rows: of the table.
        flag: the option that ``source`` came from, for messages.
        roles: what columns can hold.
        required: those of them that must exist; another may be missing under its default name, and null or "" leaves
            it unread.
        published: role -> its column in a published format, where the source keeps the default name.

    Raises:
        UserError: naming the column that is missing, and those that are there.
    """
    columns: dict[str, str] = {}
    for role, name in stated_columns(source, roles, published or {}).items():
        if not name and role not in required:
            continue
        if name and _exists(name, rows):
            columns[role] = name
        elif name != role or role in required:
            names = list(dict.fromkeys(n for row in islice(rows, SEEN) for n in nested_names(row.values)))
            raise UserError(
                f"{source.path} has no column {name!r}{did_you_mean(name or role, names)}; choose "
                f"{flag}.{role}_column from {', '.join(names[:LISTED])}{', ...' if len(names) > LISTED else ''}."
            )
    return columns


def stated_columns(source: Any, roles: Sequence[str], published: Mapping[str, str]) -> dict[str, str | None]:
    """Role -> its column as the source says, or as a published format does where the source keeps the default name."""
    named = {role: getattr(source, f"{role}_column") for role in roles}
    return {role: published.get(role, role) if name == role else name for role, name in named.items()}


def other_columns(row: Row, columns: Mapping[str, str]) -> dict[str, Any]:
    """The cells of a row that have no role."""
    used = set(columns.values())
    return {name: value for name, value in row.values.items() if name not in used}


def nested_names(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Names of columns, each with those that are nested in it; of lists, those of the first item."""
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from nested_names(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            yield from nested_names(value[0], f"{prefix}{key}.0.")


def _exists(name: str, rows: Columned) -> bool:
    if name in rows.columns:
        return True
    heads = {name[:i] for i, sign in enumerate(name) if sign == "."}
    if heads.isdisjoint(rows.columns):
        return False
    return any(lookup(row.values, name, MISSING) is not MISSING for row in rows)
