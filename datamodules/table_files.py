"""Files of rows: JSONL and JSON are read where they stand, parquet, Arrow and CSV through `datasets`, memory-mapped."""

import csv
import json
import logging
import lzma
import re
import shutil
import tempfile
import zlib
from array import array
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from glob import escape
from pathlib import Path
from typing import IO, Any

from datamodules.rows import ArrowValues, JsonValues, ListedValues, TableRows
from lit_uniopd.errors import UserError, first_line
from lit_uniopd.utils.data_paths import JSON_KINDS, KINDS, PACKED
from lit_uniopd.utils.progress import progress_bar, track
from lit_uniopd.utils.strict_json import parse_json

log = logging.getLogger(__name__)

ALL_KINDS = f"{', '.join(KINDS)} (JSON and JSONL also with {', '.join(PACKED)})"
_DELIMITER = {".csv": ",", ".tsv": "\t"}
_SPLIT = re.compile(r"(?:^|[/_.-])(train(?:ing)?|test(?:ing)?|val(?:id(?:ation)?)?|dev)(?=[/_.-])")
_OF_NO_ROWS = re.compile(r"[._]|dataset_infos?\.json$|state\.json$")
"""Files beside the rows: hidden ones, and what the hub and `datasets` say of them."""
_SAME_SPLIT = {"training": "train", "testing": "test", "valid": "validation", "val": "validation", "dev": "validation"}
_BOM = b"\xef\xbb\xbf"
_SPACE = re.compile(r"\s*")
_LONGEST_CELL = 1 << 26
"""Characters; Python's own limit is 131,072, and a quote that nothing closes must not take in the whole file."""

Keyed = Callable[[Mapping[str, Any]], "list[dict[str, Any]] | None"]


def kind_of(file: Path) -> str | None:
    """The ending that says how a file is read; None: it is not."""
    suffix = file.suffix
    if suffix in PACKED and (inner := Path(file.stem).suffix) in JSON_KINDS:
        return inner
    return suffix if suffix in KINDS else None


def files_of_folder(folder: Path, split: str | None, flag: str) -> list[Path]:
    """The files of rows in a folder, of one split where their names or folders tell them apart: train, if not given.

    Raises:
        UserError: if there are none, or of several kinds, or of splits among which none is chosen.
    """
    files = sorted(f for f in folder.rglob("*") if f.is_file() and kind_of(f) and not _OF_NO_ROWS.match(f.name))
    split_of = {file: _split_of(file.relative_to(folder).as_posix()) for file in files}
    splits = sorted({name for name in split_of.values() if name is not None})
    chosen = _SAME_SPLIT.get(split, split) if split else "train" if len(splits) > 1 else None
    if chosen is not None and chosen not in splits:
        there = f"has the splits {', '.join(splits)}" if splits else "tells no splits apart"
        raise UserError(f"{flag}.path {folder} {there}; name one of them by {flag}.split, or its files by a glob.")
    if chosen is not None:
        files = [file for file in files if split_of[file] == chosen]
        log.info("%s: %d files of %s; splits there: %s.", folder, len(files), chosen, ", ".join(splits))
    if not files:
        raise UserError(f"{flag}.path {folder} is a folder without rows; give one with {ALL_KINDS} files.")
    kinds = sorted({str(kind_of(file)) for file in files})
    if len(kinds) > 1:
        raise UserError(
            f"{flag}.path {folder} has {' and '.join(kinds)} files; name one kind by a glob, {folder}/*{kinds[0]}."
        )
    return files


def _split_of(path: str) -> str | None:
    words = _SPLIT.findall(path)
    return _SAME_SPLIT.get(words[-1], words[-1]) if words else None


def read_file(file: Path, name: str, limit: int | None, flag: str, keyed: Keyed | None = None) -> TableRows:
    """The rows of a file.

    Args:
        file: of one of `KINDS`.
        name: unique among the files of the source.
        limit: only so many rows; None: all.
        flag: the option that it came from, for messages.
        keyed: makes the rows of a JSON file that is one object; None: such a file is refused.

    Raises:
        UserError: naming the file and what is wrong in it.
    """
    try:
        if kind_of(file) not in JSON_KINDS:
            dataset = load_arrow(file, flag)
            dataset = dataset if limit is None else dataset.select(range(min(limit, len(dataset))))
            return TableRows(ArrowValues(dataset), dataset.column_names, str(file), name, folder=file.parent)
        return _read_json(file, name, limit, flag, keyed)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{flag}.path {file} cannot be read: {first_line(error)}; mend it.") from error


def load_arrow(file: Path, flag: str) -> Any:
    """A parquet, Arrow or CSV file as a `datasets.Dataset`, which `datasets` keeps in its cache.

    Raises:
        UserError: if it cannot be read as what its name says.
    """
    import pyarrow as pa
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    kind = str(kind_of(file))
    options: dict[str, Any] = {}
    try:
        names = _arrow_names(file, kind)
        if repeated := [name for name in names if name and names.count(name) > 1]:
            raise UserError(f"{flag}.path {file} has more than one column {repeated[0]!r}; keep one of them.")
        if kind in (".csv", ".tsv"):
            options = _csv_options(file, kind, names, flag)
        builder = {".tsv": "csv"}.get(kind, kind[1:])
        dataset = load_dataset(builder, data_files=escape(str(file)), split="train", **options)
        pa.default_memory_pool().release_unused()  # of a conversion that was needed
        return dataset
    except (pa.ArrowInvalid, DatasetsError, csv.Error, ValueError) as error:
        reason = error.__cause__ or error
        raise UserError(
            f"{flag}.path {file} cannot be read as {kind} ({first_line(reason)}); mend or rename it."
        ) from error


def _csv_options(file: Path, kind: str, names: Sequence[str], flag: str) -> dict[str, Any]:
    """Every cell stays the text that it is: 007, NA and 1e5 are answers too; columns without a name are left out.

    Raises:
        UserError: if a row has more cells than there are columns: pandas would read it shifted.
    """
    from datasets import Features, Value

    named = [number for number, name in enumerate(names) if name]
    width = named[-1] + 1 if named else 0
    for line, cells in track(_csv_rows(file, kind), f"Checking {file}"):
        if any(cells[width:]):
            raise UserError(
                f"{flag}.path {file}:{line} has {len(cells)} cells and the header names {width} columns; put quotes "
                f"around a cell that holds a {'tab' if kind == '.tsv' else 'comma'}, or mend the header."
            )
    if len(named) < width:
        log.info("%s: %d columns without a name (as of an index) are left out.", file, width - len(named))
    return {
        "delimiter": _DELIMITER[kind],
        "features": Features({names[number]: Value("string") for number in named}),
        "keep_default_na": False,
        "index_col": False,
        "usecols": named,
    }


def _csv_rows(file: Path, kind: str) -> Generator[tuple[int, list[str]], None, None]:
    """The number of the line that a row begins on, and its cells; rows may have several lines, and none is kept."""
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader, line = csv.reader(lines, delimiter=_DELIMITER[kind]), 1
            for cells in reader:
                yield line, cells
                line = reader.line_num + 1
    finally:
        csv.field_size_limit(limit)


def _arrow_names(file: Path, kind: str) -> list[str]:
    import pyarrow as pa
    from pyarrow import parquet

    if kind == ".parquet":
        return parquet.ParquetFile(file).schema_arrow.names
    if kind == ".arrow":
        with pa.memory_map(str(file)) as source:
            try:
                return pa.ipc.open_stream(source).schema.names
            except pa.ArrowInvalid:
                return pa.ipc.open_file(source).schema.names
    with closing(_csv_rows(file, kind)) as rows:
        return next((cells for _, cells in rows if len(cells) > 1 or "".join(cells).strip()), [])


def _read_json(file: Path, name: str, limit: int | None, flag: str, keyed: Keyed | None) -> TableRows:
    handle = _unpacked(file)
    with ExitStack() as stack:
        stack.callback(handle.close)
        if kind_of(file) == ".jsonl" or _has_lines(handle):
            index = _index_lines(handle, file, limit)
        else:
            text = handle.read().decode()
            if not text.lstrip("\ufeff \t\r\n").startswith("["):
                return _keyed_rows(text, file, name, limit, flag, keyed)
            index = _index_list(text, file, limit)
        stack.pop_all()  # its rows are read from it
    starts, numbers, end, columns = index
    return TableRows(JsonValues(handle, str(file), starts, end), columns, str(file), name, numbers, file.parent)


def _keyed_rows(text: str, file: Path, name: str, limit: int | None, flag: str, keyed: Keyed | None) -> TableRows:
    content = parse_json(text.removeprefix("\ufeff"), str(file))
    rows = keyed(content) if keyed is not None and isinstance(content, dict) else None
    if rows is None:
        raise UserError(
            f"{flag}.path {file} must hold a list of rows, [{{...}}, ...]; name it .jsonl if it has one a line."
        )
    columns = dict.fromkeys(key for row in rows for key in row)
    return TableRows(ListedValues(rows[:limit]), list(columns), str(file), name, folder=file.parent)


_Index = tuple["array[int]", "array[int] | None", int, list[str]]
"""Offsets of rows, their numbers if some are left out, the offset behind the last, and the columns."""


def _unpacked(file: Path) -> IO[bytes]:
    """The file, or what is packed in it: a file without a name that goes with this process."""
    if file.suffix not in PACKED:
        return file.open("rb")
    with ExitStack() as stack:
        unpacked = stack.enter_context(tempfile.TemporaryFile())
        with PACKED[file.suffix](file, "rb") as packed, progress_bar(None, f"Unpacking {file}", "byte"):
            shutil.copyfileobj(packed, unpacked, 1 << 20)
        unpacked.flush()
        unpacked.seek(0)
        stack.pop_all()
    return unpacked


def _has_lines(handle: IO[bytes]) -> bool:
    """Whether a .json file has an object on each line, as many on the hub do."""
    first, second = (line.strip() for line in (handle.readline(), handle.readline()))
    handle.seek(0)
    try:
        return bool(second) and isinstance(json.loads(first.removeprefix(_BOM)), dict)
    except ValueError:
        return False


def _index_lines(handle: IO[bytes], file: Path, limit: int | None) -> _Index:
    starts, numbers, columns, position = array("q"), array("I"), dict[str, None](), 0
    with progress_bar(None, f"Reading {file}") as bar:
        for number, line in enumerate(handle, start=1):
            bom = len(_BOM) if number == 1 and line.startswith(_BOM) else 0
            text = line[bom:].decode()
            if not text.isspace():
                columns |= dict.fromkeys(_row(parse_json(text, f"{file}:{number}"), f"{file}:{number}"))
                starts.append(position + bom)
                numbers.append(number)
                bar.update()
            position += len(line)
            if len(starts) == limit:
                break
    follow_each_other = not numbers or numbers[-1] == len(numbers)
    return starts, None if follow_each_other else numbers, position, list(columns)


def _index_list(text: str, file: Path, limit: int | None) -> _Index:
    offset = len(_BOM) if text.startswith("\ufeff") else 0
    text = text.removeprefix("\ufeff")
    starts, columns, end, counted = array("q"), dict[str, None](), offset, 0
    with progress_bar(None, f"Reading {file}") as bar:
        for number, (start, stop) in enumerate(_spans(text, file), start=1):
            values = _row(parse_json(text[start:stop], f"{file}:{number}"), f"{file}:{number}")
            columns |= dict.fromkeys(values)
            offset += len(text[counted:start].encode())
            starts.append(offset)
            end, counted = offset + len(text[start:stop].encode()), start
            bar.update()
            if number == limit:
                break
    return starts, None, end, list(columns)


def _spans(text: str, file: Path) -> Iterator[tuple[int, int]]:
    """Where each item of a list in JSON begins and ends."""
    decoder, position = json.JSONDecoder(), text.index("[") + 1
    first = True
    try:
        while True:
            position = _behind_space(text, position)
            if text[position : position + 1] == "]" and first:
                break
            _, stop = decoder.raw_decode(text, position)
            yield position, stop
            first, position = False, _behind_space(text, stop)
            if text[position : position + 1] == "]":
                break
            if text[position : position + 1] != ",":
                raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
            position += 1
        if text[position + 1 :].strip():
            raise json.JSONDecodeError("Extra data", text, position + 1)
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is not valid JSON ({error}); mend or remove it.") from error


def _behind_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return position if match is None else match.end()


def _row(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f'{where} is not a row; each must be an object with columns, {{"prompt": ...}}.')
    return value
