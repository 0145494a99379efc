"""Names of several teachers in a column."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from datamodules import SourceArgs
from datamodules.sources import read_prompts
from datamodules.teacher_names import teacher_of
from lit_uniopd.errors import UserError

BOTH = {"math": 1.0, "code": 1.0}


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (None, None),
        ("", None),
        ("math", "math"),
        ([], None),
        ({}, None),
        (["math"], "math"),
        ({"math": 0.3}, "math"),
        (["math", "code"], BOTH),
        ({"math": 0.7, "code": 0.3}, {"math": 0.7, "code": 0.3}),
        ({"math": 2, "code": None}, "math"),
    ],
)
def test_cells(cell, expected):
    assert teacher_of(cell, "row") == expected


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (3, "row holds a int; write a teacher's name"),
        (["math", 3], "row must name teachers by texts"),
        (["math", ""], "row must name teachers by texts"),
        ([["math", 0.5]], "row must name teachers by texts"),
        (["math", "math"], "row names a teacher twice"),
        ({"math": -1.0, "code": 1.0}, "row must give teachers positive weights"),
        ({"math": 0, "code": 1.0}, "leave out those of weight 0"),
        ({"math": True, "code": 1.0}, "positive weights"),
        ({"math": float("nan"), "code": 1.0}, "positive weights"),
        ({"math": "1", "code": 1.0}, "positive weights"),
    ],
)
def test_mistakes_are_named(cell, message):
    with pytest.raises(UserError, match=message):
        teacher_of(cell, "row")


def table(path: Path, teachers: list[Any]) -> str:
    rows = [{"prompt": f"{i}?", "teacher": teacher} for i, teacher in enumerate(teachers)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)
    content = pa.Table.from_pylist(rows)
    if path.suffix == ".parquet":
        parquet.write_table(content, path)
    else:
        with ipc.new_file(str(path), content.schema) as out:
            out.write_table(content)
    return str(path)


def test_rows_of_json_may_have_one_several_or_none(tmp_path):
    teachers = ["math", ["math", "code"], {"math": 0.7, "code": 0.3}, None, [], ""]
    path = table(tmp_path / "t.jsonl", teachers)
    expected: list[Any] = ["math", BOTH, {"math": 0.7, "code": 0.3}, None, None, None]
    assert [p.teacher for p in read_prompts(SourceArgs(path), "--data.train")] == expected
    filled = SourceArgs(path, teacher=["law", "math"])
    even = {"law": 1.0, "math": 1.0}
    assert [p.teacher for p in read_prompts(filled, "--data.train")] == [*expected[:3], even, even, even]


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize(
    ("teachers", "expected"),
    [
        ([["math", "code"], ["math"], None], [BOTH, "math", None]),
        ([{"math": 0.7, "code": 0.3}, {"math": 1.0, "code": None}], [{"math": 0.7, "code": 0.3}, "math"]),
    ],
)
def test_rows_of_arrow_have_lists_or_structs(tmp_path, suffix, teachers, expected):
    path = table(tmp_path / f"t.{suffix}", teachers)
    assert [p.teacher for p in read_prompts(SourceArgs(path), "--data.train")] == expected


def test_a_mistake_names_row_column_or_option(tmp_path):
    path = table(tmp_path / "t.jsonl", ["math", ["math", 3]])
    with pytest.raises(UserError, match=r"t\.jsonl:2: column 'teacher' must name teachers by texts"):
        read_prompts(SourceArgs(path), "--data.train")
    path = table(tmp_path / "u.jsonl", ["math"])
    with pytest.raises(UserError, match=r"--data\.train\.teacher names a teacher twice"):
        read_prompts(SourceArgs(path, teacher=["law", "law"]), "--data.train")


@pytest.mark.parametrize(
    ("option", "column", "cells", "told"),
    [
        ("teacher", "teacher", ["math", "code"], "WARNING"),
        ("teacher", "teacher", ["math", ""], None),
        ("teacher", "teacher", ["math", None], None),
        ("teacher", "teacher", [["math", "code"], []], None),
        ("teacher", "teacher", [{"math": 1, "code": None}, {"math": None, "code": None}], None),
        ("teacher", "other", ["math", "code"], None),
        ("domain", "domain", ["math", "code"], "WARNING"),
        ("grader", "grader", ["exact", "exact"], "INFO"),
    ],
)
def test_what_no_row_takes_from_its_source_is_told(option, column, cells, told, tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": f"{i}=", "answer": "1", column: c}) + "\n" for i, c in enumerate(cells))
    )
    value = "math" if option != "grader" else "numeric"
    constant: dict[str, Any] = {option: value}
    with caplog.at_level("INFO"):
        read_prompts(SourceArgs(path=str(path), **constant), "--data.train")
    said = [record for record in caplog.records if "has no effect" in record.message]
    assert [record.levelname for record in said] == ([told] if told else [])
    for record in said:
        assert record.message.startswith(
            f"--data.train.{option} {value} has no effect: every row of {path} has its own"
        )
        assert record.message.endswith(f"set --data.train.{option}_column null to use it.")
