"""Summaries of the laboratories' runs, one line a run, kept with the code, so that claims can be computed again."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lit_uniopd.utils.jsonl import read_lines, write_lines

FOLDER = Path(__file__).parent / "summaries"


def keep(name: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add runs to a file of summaries; one that is there under the same key is replaced.

    Args:
        name: of the file.
        rows: with ``key``, ``arm`` and ``seed``.
    """
    kept = {row["key"]: row for row in [*read(name), *rows]}
    if not kept:
        return
    write_lines(path_of(name), sorted(kept.values(), key=lambda row: (row.get("setting", ""), row["arm"], row["seed"])))


def read(name: str) -> list[dict[str, Any]]:
    """The kept runs of a file; none if it does not exist."""
    path = path_of(name)
    return list(read_lines(path)) if path.exists() else []


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.jsonl"
