"""Files of JSON lines that several ranks append to and that a killed run leaves readable."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lit_uniopd.errors import full_disk_named


def rank_file(path: Path, rank: int) -> Path:
    """The file that one rank appends to; rank 0 has the plain name."""
    return path if rank == 0 else path.with_suffix(f".{rank}{path.suffix}")


def append_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> int:
    """Add lines to a file, all at once.

    Returns:
        The offset of the first of them in the file, in bytes.

    Raises:
        UserError: naming the file, if the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and not _ends_with_newline(path)
    text = "".join(as_line(line) for line in lines).encode()
    with full_disk_named(path), path.open("ab") as out:
        out.write(b"\n" * torn + text)
        out.flush()
        return out.tell() - len(text)


def as_line(entry: Mapping[str, Any]) -> str:
    """An entry as it is written."""
    return json.dumps(dict(entry), ensure_ascii=False) + "\n"


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def rank_files(path: Path) -> list[Path]:
    """The files that the ranks have written."""
    ranks = [file for file in path.parent.glob(f"{path.stem}.*{path.suffix}") if file.suffixes[-2][1:].isdigit()]
    return [file for file in (path, *sorted(ranks)) if file.exists()]


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with something in them, and their numbers from 1. They end at newlines only.

    A text in a row may hold Unicode's other ends of lines, at which ``str.splitlines`` would tear it.
    """
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line.strip():
            yield number, line


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of all ranks; a torn one (of a killed run) is left out."""
    for file in rank_files(path):
        for _, line in numbered_lines(file):
            entry = parse_line(line)
            if entry is not None:
                yield entry


def parse_line(line: str | bytes) -> dict[str, Any] | None:
    """The entry in a line; None if it is torn or no entry."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Replace a file; a reader sees the old one or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.writing")
    temporary.unlink(missing_ok=True)
    append_lines(temporary, lines)
    os.replace(temporary, path)
