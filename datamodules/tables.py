"""Tables of rows: files, folders, data sets on the hub and the playground."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.rows import ArrowValues, Rows, TableRows
from datamodules.table_files import (
    ALL_KINDS,
    Keyed,
    files_of_folder,
    kind_of,
    load_arrow,
    read_file,
)
from lit_uniopd.errors import UserError, first_line
from lit_uniopd.utils.data_paths import ARROW_KINDS, is_hub_dataset, matching_paths
from lit_uniopd.utils.paths import resolve_path

PLAYGROUND = "playground:"
PLAYGROUND_SPLITS = (
    *("train", "heldout", "fresh", "short", "solved", "pairs", "heldout_pairs", "vision_train", "vision_heldout"),
    *("scenes", "heldout_scenes", "scene_pairs", "sums", "heldout_sums", "large_sums", "heldout_large_sums"),
    *("lists", "heldout_lists", "stories", "heldout_stories", "long_stories", "heldout_long_stories"),
)


@dataclass
class TableArgs:
    """Where rows come from."""

    path: str
    """A file (.jsonl, .json, packed ones too, .parquet, .arrow, .csv, .tsv), a glob or a folder of such files, a folder
    that `save_to_disk` wrote, a data set on the hub (owner/name), or playground:train, playground:heldout; of pairs,
    playground:pairs, playground:heldout_pairs."""
    split: str | None = None
    """Split of a hub data set or a folder. Default: train."""
    name: str | None = None
    """Configuration of a hub data set."""
    revision: str | None = None
    """Branch, tag or commit of a hub data set."""
    limit: int | None = None
    """Read only this many rows from the beginning. Default: all."""
    streaming: bool = False
    """Fetch no more of a hub data set than the rows up to `limit`, which are held in memory."""
    image_folder: str | None = None
    """Folder of the pictures that rows name by a path, by the last part of one, or by a name without an ending;
    subfolders are included. Default: paths start from the folder of the file."""


def prepare_table(table: TableArgs, flag: str) -> None:
    """Download, convert or build the table for ``read_rows``. For one process only.

    Raises:
        UserError: if that fails.
    """
    if not table.path:
        return
    if is_hub_dataset(table.path):
        if not table.streaming:
            _hub_dataset(table, flag)
    elif not _saved(table.path):
        for file in _files(table, flag):
            if kind_of(file) in ARROW_KINDS:
                load_arrow(file, flag)


def read_rows(table: TableArgs, flag: str, keyed: Keyed | None = None) -> Rows:
    """Read a table. Its rows stay where they are; strict reading of JSON is done here, once.

    Args:
        table: what to read.
        flag: the option that ``table`` came from (``--data.train``), for messages.
        keyed: makes the rows of a JSON file that is one object; None: such a file is refused.

    Raises:
        UserError: a missing, empty, broken or unknown file or data set, or an option that does not apply to it.
    """
    if not table.path:
        raise UserError(f"{flag}.path is empty; give {ALL_KINDS} files or a data set on the hub.")
    if table.limit is not None and table.limit < 1:
        raise UserError(f"{flag}.limit must be at least 1, not {table.limit}; leave it out to read all rows.")
    is_hub = is_hub_dataset(table.path)
    if not is_hub:
        _refuse_hub_options(table, flag)
    rows = Rows(
        [_hub_rows(table, flag)]
        if is_hub
        else [_saved_rows(table, flag)]
        if _saved(table.path)
        else list(_file_tables(table, flag, keyed))
    )
    if not rows:
        raise UserError(f"{flag}.path {table.path} holds no rows; give a table with at least one.")
    return rows


def _refuse_hub_options(table: TableArgs, flag: str) -> None:
    folder = Path(table.path).expanduser().is_dir()
    misplaced = [key for key in ("split", "name", "revision") if getattr(table, key) is not None]
    misplaced = [key for key in misplaced if not (folder and key == "split")]
    misplaced += ["streaming"] if table.streaming else []
    if misplaced:
        raise UserError(f"{flag}.{misplaced[0]} is for data sets on the hub, not for {table.path}; remove it.")


def _file_tables(table: TableArgs, flag: str, keyed: Keyed | None) -> Iterator[TableRows]:
    files = _files(table, flag)
    root = Path(os.path.commonpath([file.absolute().parent for file in files]))
    left = table.limit
    for file in files:
        rows = read_file(file, file.absolute().relative_to(root).as_posix(), left, flag, keyed)
        yield rows
        if left is not None:
            left -= len(rows)
            if left <= 0:
                return


def _files(table: TableArgs, flag: str) -> list[Path]:
    path = table.path
    if path.startswith(PLAYGROUND):
        return [_playground_file(path, flag)]
    expanded = os.path.expanduser(path)
    if Path(expanded).is_dir():
        return files_of_folder(Path(expanded), table.split, flag)
    files = matching_paths(path, flag)
    for file in files:
        if file.is_dir():
            raise UserError(f"{flag}.path {path} matches the folder {file}; name files, as in {file}/*.jsonl.")
        if kind_of(file) is None:
            raise UserError(f"{flag}.path {file} is of an unknown kind; give one of {ALL_KINDS}.")
    return files


def _saved(path: str) -> bool:
    """Whether `datasets` saved the folder (`save_to_disk`)."""
    folder = Path(path).expanduser()
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def _saved_rows(table: TableArgs, flag: str) -> TableRows:
    from datasets import DatasetDict, load_from_disk

    folder = Path(table.path).expanduser()
    try:
        loaded = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{flag}.path {table.path} cannot be read: {first_line(error)}; mend it, or save it anew."
        ) from error
    if isinstance(loaded, DatasetDict):
        split = table.split or "train"
        if split not in loaded:
            splits = ", ".join(map(str, loaded))
            raise UserError(f"{flag}.path {table.path} has the splits {splits}; name one of them by {flag}.split.")
        loaded = loaded[split]
    elif table.split is not None:
        raise UserError(f"{flag}.split is for data sets with splits, which {table.path} has not; remove it.")
    return _dataset_rows(loaded, table, f"{table.path}/{table.split or 'train'}" if table.split else table.path, folder)


def _hub_rows(table: TableArgs, flag: str) -> TableRows:
    return _dataset_rows(_hub_dataset(table, flag), table, f"{table.path}/{table.split or 'train'}", None)


def _dataset_rows(dataset: Any, table: TableArgs, label: str, folder: Path | None) -> TableRows:
    if table.limit is not None:
        dataset = dataset.select(range(min(table.limit, len(dataset))))
    return TableRows(ArrowValues(dataset), dataset.column_names, label, label, folder=folder)


def _hub_dataset(table: TableArgs, flag: str) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    split = table.split or "train"
    if table.streaming and table.limit is None:
        raise UserError(f"{flag}.streaming needs {flag}.limit, how many rows to fetch; set it, or leave streaming out.")
    options: dict[str, Any] = {"streaming": True} if table.streaming else {}
    try:
        dataset = load_dataset(table.path, table.name, split=split, revision=table.revision, **options)
        return _fetched(dataset, int(table.limit or 0)) if table.streaming else dataset
    except (DatasetsError, ValueError, OSError, RuntimeError) as error:
        raise UserError(
            f"{flag}.path {table.path} is no file here, and as a data set on the hub (split {split}) it could not be "
            f"loaded ({first_line(error)}); mend the name, or check the network."
        ) from error


def _fetched(stream: Any, limit: int) -> Any:
    """The first rows of a stream."""
    import pyarrow as pa
    from datasets import Dataset

    tables = list(stream.take(limit).with_format("arrow").iter(256))
    return Dataset(pa.concat_tables(tables, promote_options="default")) if tables else Dataset.from_dict({})


def _playground_file(path: str, flag: str) -> Path:
    split = path.removeprefix(PLAYGROUND)
    if split not in PLAYGROUND_SPLITS:
        splits = " and ".join(PLAYGROUND + name for name in PLAYGROUND_SPLITS)
        raise UserError(f"{flag}.path {path} is unknown; the playground has {splits}; name one of these.")
    return Path(resolve_path(f"{path}.jsonl"))
