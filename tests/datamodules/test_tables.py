"""Rows of every kind of file are the same rows, and stay in their files."""

import bz2
import gzip
import json
import logging
import lzma
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict
from pyarrow import csv, parquet

from datamodules import PromptDataModule, SourceArgs, sources
from datamodules.sources import read_prompts
from datamodules.table_files import _csv_rows
from datamodules.tables import TableArgs, prepare_table, read_rows
from lit_uniopd.errors import UserError

FLAG = "--data.train"
ROWS = [{"prompt": f"What is {i} + ½?", "answer": f"{i:03d}"} for i in range(1, 6)]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def written(folder: Path, kind: str, rows: list[dict[str, Any]] = ROWS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"t.{kind}"
    table = pa.Table.from_pylist(rows)
    if kind == "saved":
        Dataset.from_list(rows).save_to_disk(path)
    elif kind == "split":
        DatasetDict({"train": Dataset.from_list(rows), "test": Dataset.from_list(rows[:1])}).save_to_disk(path)
    elif kind == "arrow":
        _stream(path, table)
    elif kind == "file.arrow":
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    elif kind == "parquet":
        parquet.write_table(table, path)
    elif kind in ("csv", "tsv"):
        csv.write_csv(table, path, csv.WriteOptions(delimiter="\t" if kind == "tsv" else ","))
    else:
        name, _, packing = kind.partition(".")
        data = lines(rows) if name in ("jsonl", "lines") else json.dumps(rows, indent=2, ensure_ascii=False).encode()
        pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "": bytes}[packing]
        path = path.with_name(path.name.replace("lines", "json"))
        path.write_bytes(pack(data))
    return path


def _stream(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


KINDS = (
    *("jsonl", "jsonl.gz", "jsonl.bz2", "jsonl.xz", "json", "json.gz", "lines", "parquet", "arrow", "file.arrow"),
    *("csv", "tsv", "saved", "split"),
)


@pytest.mark.parametrize("kept", [True, False], ids=["in memory", "in their file"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_has_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, kept: bool):
    monkeypatch.setattr(sources, "KEPT_BYTES", 1 << 20 if kept else -1)
    path = written(tmp_path / "a [b]", kind)
    prepare_table(TableArgs(str(path)), FLAG)
    prompts = read_prompts(SourceArgs(str(path)), FLAG)
    expected = [(row["prompt"], row["answer"]) for row in ROWS]
    assert [(p.messages[0]["content"], p.gold) for p in prompts] == expected
    assert prompts[-1].id.endswith(":5")
    assert prompts[1:3] == [prompts[1], prompts[2]]
    assert len(read_prompts(SourceArgs(str(path), limit=2), FLAG)) == 2


def test_a_folder_of_shards_is_one_table(tmp_path: Path):
    for i in range(3):
        parquet.write_table(pa.Table.from_pylist(ROWS[i : i + 1]), tmp_path / f"part-{i:05d}-of-00003.parquet")
    for name in ("README.md", "dataset_infos.json", ".hidden.jsonl"):
        (tmp_path / name).write_text("{}")
    prompts = read_prompts(SourceArgs(str(tmp_path)), FLAG)
    assert [prompt.gold for prompt in prompts] == ["001", "002", "003"]
    assert prompts[2].id == "part-00002-of-00003.parquet:1"


def test_a_folder_with_splits_is_read_by_split(tmp_path: Path):
    (tmp_path / "data").mkdir()
    for i, name in enumerate(["train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"]):
        (tmp_path / f"data/{name}.jsonl").write_bytes(lines(ROWS[i : i + 1]))

    def golds(split: str | None) -> list[Any]:
        return [prompt.gold for prompt in read_prompts(SourceArgs(str(tmp_path), split=split), FLAG)]

    assert golds(None) == golds("train") == ["001", "002"]
    assert golds("validation") == golds("val") == ["003"]
    with pytest.raises(UserError, match=r"has the splits train, validation; name one of them by --data\.train\.split"):
        golds("test")


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (["a.jsonl", "b.parquet"], {}, r"has \.jsonl and \.parquet files; name one kind by a glob, .*/\*\.jsonl"),
        (["a.txt"], {}, "is a folder without rows; give one with .jsonl"),
        (["a.jsonl"], {"split": "test"}, "tells no splits apart; name one of them by --data.train.split"),
        (["test/a.jsonl", "dev/a.jsonl"], {}, "has the splits test, validation; name one of them"),
        (["a.jsonl"], {"revision": "v1"}, "--data.train.revision is for data sets on the hub"),
        (["a.jsonl"], {"streaming": True}, "--data.train.streaming is for data sets on the hub"),
    ],
)
def test_a_folder_that_is_no_table_is_named(tmp_path: Path, files: list[str], options: dict[str, Any], message: str):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(lines(ROWS))
    with pytest.raises(UserError, match=message):
        read_prompts(SourceArgs(str(tmp_path), **options), FLAG)


def test_a_saved_data_set_is_read_by_split(tmp_path: Path):
    path = written(tmp_path, "split")
    assert len(read_rows(TableArgs(str(path), split="test"), FLAG)) == 1
    with pytest.raises(UserError, match=r"has the splits train, test; name one of them by --data\.train\.split"):
        read_rows(TableArgs(str(path), split="dev"), FLAG)
    with pytest.raises(UserError, match=r"--data\.train\.split is for data sets with splits"):
        read_rows(TableArgs(str(written(tmp_path, "saved")), split="dev"), FLAG)


def test_a_stream_is_read_up_to_its_limit(monkeypatch: pytest.MonkeyPatch):
    drawn: list[int] = []

    def rows() -> Any:
        for i in range(1000):
            drawn.append(i)
            yield {"prompt": f"p{i}"}

    from datasets import IterableDataset

    def load(*args: Any, **options: Any) -> Any:
        assert options["streaming"]
        return IterableDataset.from_generator(rows)

    monkeypatch.setattr("datasets.load_dataset", load)
    read = read_rows(TableArgs("owner/name", streaming=True, limit=3), FLAG)
    assert [row.values["prompt"] for row in read] == ["p0", "p1", "p2"]
    assert max(drawn) < 10
    with pytest.raises(UserError, match=r"--data\.train\.streaming needs --data\.train\.limit"):
        read_rows(TableArgs("owner/name", streaming=True), FLAG)


def test_cells_of_csv_files_are_the_texts_that_they_are(tmp_path: Path):
    file = tmp_path / "t.csv"
    file.write_text('prompt,answer\n"a, b",NA\nb,007\nc,1e5\nd,\n')
    assert [prompt.gold for prompt in read_prompts(SourceArgs(str(file)), FLAG)] == ["NA", "007", "1e5", None]


ASKED = [{"prompt": "1 + 1?", "answer": "2"}, {"prompt": "2 + 2?", "answer": "4"}]


@pytest.mark.parametrize(
    ("name", "text", "rows"),
    [
        ("t.csv", "prompt,answer\n1 + 1?,2,\n2 + 2?,4,\n", ASKED),
        ("t.csv", "prompt,answer\n1 + 1?,2\n2 + 2?,4,,\n", ASKED),
        ("t.csv", "prompt,answer,\n1 + 1?,2,\n2 + 2?,4\n", ASKED),
        ("t.csv", "\nprompt,answer\r\n1 + 1?,2\r\n\r\n2 + 2?,4\r\n", ASKED),
        ("t.tsv", "prompt\tanswer\n1 + 1?\t2\t\n2 + 2?\t4\t\n", ASKED),
        ("t.csv", '\ufeffprompt,answer\r\n"a,\r\n""b""",2\r\n', [{"prompt": 'a,\r\n"b"', "answer": "2"}]),
        ("t.csv", f"prompt,answer\n{'x' * 200_000},2\n", [{"prompt": "x" * 200_000, "answer": "2"}]),
    ],
    ids=["commas behind", "commas behind one", "comma behind the header", "lines", "tsv", "quoted", "long"],
)
def test_a_csv_files_cells_stand_under_their_columns(tmp_path: Path, name: str, text: str, rows: list[Any]):
    (tmp_path / name).write_bytes(text.encode())
    assert [row.values for row in read_rows(TableArgs(str(tmp_path / name)), FLAG)] == rows


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("t.csv", "prompt,answer\nIf x=1, what is x?,1\n2 + 2?,4\n", r":2 has 3 cells and the header names 2 columns"),
        ("t.csv", 'prompt,answer\n"a\nb",4\n\nIf x=1, what is x?,1\n', r":5 has 3 cells .* holds a comma"),
        ("t.csv", "prompt,answer,\nIf x=1, what is x?,1\n", r":2 has 3 cells and the header names 2 columns"),
        ("t.csv", "chosen,rejected\n0,good,bad\n1,fine,worse\n", r":2 has 3 cells and the header names 2 columns"),
        ("t.csv", ",,\n1,2,3\n", r":2 has 3 cells and the header names 0 columns"),
        ("t.tsv", "prompt\tanswer\na, b\tc\nx\ty\tz\n", r":3 has 3 cells .* holds a tab"),
    ],
)
def test_a_csv_row_with_more_cells_than_columns_is_named(tmp_path: Path, name: str, text: str, sentence: str):
    (tmp_path / name).write_bytes(text.encode())
    with pytest.raises(UserError, match=rf"--data\.train\.path .*{name}{sentence}"):
        read_rows(TableArgs(str(tmp_path / name)), FLAG)


@pytest.mark.parametrize("index", [["prompt"], ["prompt", "answer"]])
def test_the_index_that_pandas_writes_is_left_out_and_told(tmp_path: Path, index: list[str], caplog: Any):
    frame = pd.DataFrame(ASKED)
    frame.index = pd.MultiIndex.from_arrays([frame[name] for name in index], names=[None] * len(index))
    frame.to_csv(tmp_path / "t.csv")
    with caplog.at_level(logging.INFO):
        rows = read_rows(TableArgs(str(tmp_path / "t.csv")), FLAG)
    assert [row.values for row in rows] == ASKED
    assert f"t.csv: {len(index)} columns without a name (as of an index) are left out." in caplog.text


def test_looking_through_a_csv_file_takes_no_memory(tmp_path: Path):
    (tmp_path / "t.csv").write_text("prompt,answer\n" + f"{'x' * 998},2\n" * 4000)
    tracemalloc.start()
    assert sum(len(cells) for _, cells in _csv_rows(tmp_path / "t.csv", ".csv")) == 2 * 4001
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000 < 4_000_000 <= (tmp_path / "t.csv").stat().st_size


def test_a_file_that_changes_under_a_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sources, "KEPT_BYTES", -1)
    path = written(tmp_path, "jsonl")
    prompts = read_prompts(SourceArgs(str(path)), FLAG)
    path.write_bytes(lines(ROWS[::-1]))
    os.utime(path, ns=(0, 0))
    with pytest.raises(UserError, match=r"t\.jsonl was changed while it was read"):
        _ = prompts[0]


def test_training_goes_on_with_rows_in_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The order and the prompts are those of rows in memory."""

    def batches() -> list[list[Any]]:
        sources_ = [SourceArgs(str(written(tmp_path, kind))) for kind in ("jsonl", "parquet")]
        data = PromptDataModule(sources_, batch_size=2, seed=3)
        data.setup("fit")
        return [list(batch) for batch in data.train_dataloader()]

    kept = batches()
    monkeypatch.setattr(sources, "KEPT_BYTES", -1)
    assert batches() == kept
    assert len(kept) == 5


MEASURE = """
import resource, sys
from datamodules import PromptDataModule, SourceArgs
data = PromptDataModule(SourceArgs(sys.argv[1], id_column="id"), batch_size=8, seed=0)
data.setup("fit")
first = next(iter(data.train_dataloader()))
print(len(data.train_prompts), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_rows_take_no_memory(tmp_path: Path):
    """200,000 rows of 500 bytes against 2,000: as Python objects they took 300 MB."""
    peaks = {}
    for rows in (2_000, 200_000):
        file = tmp_path / f"{rows}.jsonl"
        with file.open("w") as out:
            out.writelines(json.dumps({"id": i, "prompt": f"{i} " + "x" * 480}) + "\n" for i in range(rows))
        done = subprocess.run([sys.executable, "-c", MEASURE, str(file)], capture_output=True, text=True, check=True)
        count, kilobytes = map(int, done.stdout.split())
        assert count == rows
        peaks[rows] = kilobytes * 1024
    assert peaks[200_000] - peaks[2_000] < 100 * 200_000  # bytes a row
