"""Files of JSON lines that several ranks append to and that a killed run leaves readable."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lit_uniopd.errors import full_disk_named


def rank_file(path: Path, rank: int) -> Path:
    """Where one rank appends; rank 0 has the plain name."""
    return path if rank == 0 else path.with_suffix(f".{rank}{path.suffix}")


def append_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Add lines to a file, all at once.

    Raises:
        UserError: naming the file, if there is no room for them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
    with full_disk_named(path), path.open("a", encoding="utf-8") as out:
        out.write("\n" * torn + "".join(json.dumps(dict(line), ensure_ascii=False) + "\n" for line in lines))


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of all ranks; a torn one (of a killed run) is left out."""
    ranks = [file for file in path.parent.glob(f"{path.stem}.*{path.suffix}") if file.suffixes[-2][1:].isdigit()]
    for file in (path, *sorted(ranks)):
        if file.exists():
            for line in file.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if isinstance(entry, dict):
                    yield entry


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a file anew; a reader sees the old one or the new one, never a part."""
    scratch = path.with_name(f".{path.name}.writing")
    scratch.unlink(missing_ok=True)
    append_lines(scratch, lines)
    os.replace(scratch, path)
