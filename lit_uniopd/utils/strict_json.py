"""JSON that people wrote: what Python's reader lets pass, and a run would trip over, is refused."""

import json
import re
from collections.abc import Mapping
from typing import Any

from lit_uniopd.errors import UserError

_HALF_ESCAPED = re.compile(r"\\u[dD][89a-fA-F]")
_HALF = re.compile(r"[\ud800-\udfff]")


def parse_json(text: str, where: str) -> Any:
    """The value in a text.

    Args:
        text: one JSON value, read from UTF-8.
        where: file and line, for messages.

    Raises:
        UserError: if it is not valid, has a key twice in one object, of which Python takes the last, or holds half of a
            surrogate pair, which no tokenizer and no file takes.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            keys = [key for key, _ in pairs]
            repeated = next(key for key in keys if keys.count(key) > 1)
            raise UserError(
                f"{where} has the key {repeated!r} more than once in {json.dumps(values)[:80]}; keep one of them."
            )
        return values

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not valid JSON ({error}); mend or remove it.") from error
    if _HALF_ESCAPED.search(text):  # in UTF-8 only an escape can write one, and most texts have none
        rows = enumerate(value, start=1) if isinstance(value, list) else [("", value)]
        for number, row in rows:
            _refuse_halves(row, f"{where}:{number}" if number else where)
    return value


def half_character(text: str) -> str | None:
    """The first half of a surrogate pair that has lost the other."""
    match = _HALF.search(text)
    return match[0] if match else None


def _refuse_halves(row: Any, where: str) -> None:
    for key, cell in row.items() if isinstance(row, Mapping) else [(None, row)]:
        if half := half_character(json.dumps([key, cell], ensure_ascii=False)):
            column = "" if key is None else f" in {key!r}"
            raise UserError(
                f"{where} has half of a surrogate pair ({half!a}){column}, no character; mend or remove the row."
            )
