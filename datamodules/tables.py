"""Rows from files, the hub and the playground, each with its place for messages."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any

from lit_uniopd.errors import UserError, first_line
from lit_uniopd.utils.paths import resolve_path
from lit_uniopd.utils.strict_json import parse_json

PLAYGROUND = "playground:"
PLAYGROUND_SPLITS = (
    *("train", "heldout", "fresh", "short", "pairs", "heldout_pairs", "vision_train", "vision_heldout"),
    *("scenes", "heldout_scenes", "scene_pairs", "sums", "heldout_sums"),
)
SUFFIXES = (".jsonl", ".json", ".parquet")


@dataclass
class TableArgs:
    """Where rows come from."""

    path: str
    """A .jsonl, .json or .parquet file, a glob of such files, a data set on the hub (owner/name), or playground:train,
    playground:heldout; of pairs, playground:pairs, playground:heldout_pairs."""
    split: str | None = None
    """Split of a hub data set. Default: train."""
    name: str | None = None
    """Configuration of a hub data set."""
    revision: str | None = None
    """Branch, tag or commit of a hub data set."""
    limit: int | None = None
    """Read only this many rows from the beginning. Default: all."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row and its place."""

    where: str
    """For messages: file and line, or data set and number."""
    name: str
    """Unique in its table, and the same wherever the file is."""
    values: dict[str, Any]
    folder: Path | None = None
    """Where relative paths in the row start."""


def prepare_table(table: TableArgs, flag: str) -> None:
    """Download or build the table for ``read_rows``. For one process only.

    Raises:
        UserError: if that fails.
    """
    if table.path.startswith(PLAYGROUND):
        _playground_file(table.path, flag)
    elif table.path and _is_hub(table.path):
        _hub_dataset(table, flag)


def read_rows(table: TableArgs, flag: str) -> list[Row]:
    """Read a table.

    Args:
        table: what to read.
        flag: the option that ``table`` came from (``--data.train``), for messages.

    Raises:
        UserError: a missing, empty, broken or unknown file or data set, or an option that does not apply to it.
    """
    if not table.path:
        raise UserError(f"{flag}.path is empty; give {', '.join(SUFFIXES)} files or a data set on the hub.")
    if table.limit is not None and table.limit < 1:
        raise UserError(f"{flag}.limit must be at least 1, not {table.limit}; leave it out to read all rows.")
    if _is_hub(table.path):
        rows = _hub_rows(table, flag)
    else:
        if misplaced := [key for key in ("split", "name", "revision") if getattr(table, key) is not None]:
            raise UserError(f"{flag}.{misplaced[0]} is for data sets on the hub, not for {table.path}; remove it.")
        rows = _file_rows(table.path, flag)
    if not (limited := list(islice(rows, table.limit))):
        raise UserError(f"{flag}.path {table.path} holds no rows; give a table with at least one.")
    return limited


def _is_hub(path: str) -> bool:
    """Whether a path names a data set on the hub: it is not a file and does not look like one."""
    looks_like_file = path.endswith(SUFFIXES) or path.startswith((".", "/", "~")) or any(c in path for c in "*?[")
    return not (path.startswith(PLAYGROUND) or looks_like_file or Path(path).exists())


def _file_rows(path: str, flag: str) -> Iterator[Row]:
    files = _files(path, flag)
    root = Path(os.path.commonpath([file.absolute().parent for file in files]))
    for file in files:
        relative = file.absolute().relative_to(root).as_posix()
        for number, values in _parse(file, flag):
            where = f"{file}:{number}"
            if not isinstance(values, dict):
                raise UserError(f'{where} is not a row; each must be an object with columns, {{"prompt": ...}}.')
            yield Row(where, f"{relative}:{number}", values, file.parent)


def _files(path: str, flag: str) -> list[Path]:
    if path.startswith(PLAYGROUND):
        return [_playground_file(path, flag)]
    expanded = os.path.expanduser(path)
    # First as a file: a name may contain brackets without being a pattern.
    names = [expanded] if Path(expanded).exists() else sorted(glob(expanded, recursive=True))
    files = [Path(name) for name in names]
    if not files:
        raise UserError(f"{flag}.path {path} matches no file (looked from {Path.cwd()}); mend the path.")
    for file in files:
        if file.is_dir():
            raise UserError(f"{flag}.path {file} is a folder; name the files in it, as in {file}/*.jsonl.")
        if file.suffix not in SUFFIXES:
            raise UserError(f"{flag}.path {file} is of an unknown kind; give one of {', '.join(SUFFIXES)}.")
    return files


def _parse(file: Path, flag: str) -> Iterator[tuple[int, Any]]:
    """Rows of a file with their line (JSONL) or number, from 1."""
    try:
        if file.suffix == ".jsonl":
            with file.open(encoding="utf-8-sig") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        yield number, parse_json(line, f"{file}:{number}")
        elif file.suffix == ".json":
            rows = parse_json(file.read_text(encoding="utf-8-sig"), str(file))
            if not isinstance(rows, list):
                raise UserError(
                    f"{flag}.path {file} must hold a list of rows, [{{...}}, ...]; name it .jsonl if it has one a line."
                )
            yield from enumerate(rows, start=1)
        else:
            yield from enumerate(_parquet_rows(file, flag), start=1)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{flag}.path {file} cannot be read: {first_line(error)}; mend it.") from error


def _parquet_rows(file: Path, flag: str) -> list[dict[str, Any]]:
    # Imported here: a run on JSONL files need not wait for it.
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file).read()
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{flag}.path {file} is not a parquet file ({first_line(error)}); mend or rename it."
        ) from error
    names = table.column_names
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{flag}.path {file} has more than one column {repeated[0]!r}; keep one of them.")
    return table.to_pylist()


def _hub_rows(table: TableArgs, flag: str) -> Iterator[Row]:
    dataset = _hub_dataset(table, flag)
    if table.limit is not None:
        dataset = dataset.select(range(min(table.limit, len(dataset))))
    label = f"{table.path}/{table.split or 'train'}"
    # As Arrow: pictures stay compressed.
    for number, values in enumerate(dataset.with_format("arrow")[:].to_pylist(), start=1):
        yield Row(f"{label}:{number}", f"{label}:{number}", values)


def _hub_dataset(table: TableArgs, flag: str) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    split = table.split or "train"
    try:
        return load_dataset(table.path, table.name, split=split, revision=table.revision)
    except (DatasetsError, ValueError, OSError, RuntimeError) as error:
        raise UserError(
            f"{flag}.path {table.path} is no file here, and as a data set on the hub (split {split}) it could not be "
            f"loaded ({first_line(error)}); mend the name, or check the network."
        ) from error


def _playground_file(path: str, flag: str) -> Path:
    split = path.removeprefix(PLAYGROUND)
    if split not in PLAYGROUND_SPLITS:
        splits = " and ".join(PLAYGROUND + name for name in PLAYGROUND_SPLITS)
        raise UserError(f"{flag}.path {path} is unknown; the playground has {splits}; name one of these.")
    return Path(resolve_path(f"{path}.jsonl"))
