"""Records survive kills, and tell answers apart by content."""

import json
from dataclasses import replace

import pytest

from lit_uniopd.benchmarks.records import (
    LONGEST_GOLD,
    PENDING,
    Record,
    RecordWriter,
    brief_gold,
    is_omitted,
    read_records,
)
from lit_uniopd.benchmarks.report.summary import PARQUET, compact, run_records
from lit_uniopd.errors import UserError


def record(**changes) -> Record:
    base = Record(
        benchmark="b",
        protocol="p",
        version=1,
        profile="paper",
        fingerprint="f",
        sample_id="s",
        group_id="s",
        sample_idx=0,
        prompt_hash="h",
        generation_hash="g",
        weights="w",
        model="m",
        step=0,
        response="é\n2",
        gold={"a": [1, None]},
        options={"choices": {"A": "x"}},
        correct=True,
        score=1.0,
        reason="ok",
        grader="math",
        breakdown={"level": "1"},
    )
    return replace(base, **changes)


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "records" / "rank0.jsonl"
    RecordWriter(path).append([record(), record(sample_idx=1)])
    return path


def test_records_read_back_as_they_were_written(written):
    assert read_records([written]) == [record(), record(sample_idx=1)]


def test_a_torn_last_line_is_dropped_and_does_not_swallow_the_next(written, caplog):
    written.write_bytes(written.read_bytes()[:-20])
    RecordWriter(written).append([record(sample_idx=2)])
    assert [r.sample_idx for r in read_records([written])] == [0, 2]
    assert "1 broken line(s)" in caplog.text


def test_of_equal_keys_the_last_verdict_counts(written):
    """An answer that was judged again, by another grader say; one that is to be judged still has none yet."""
    RecordWriter(written).append(
        [
            *(record(score=0.0), record(reason=PENDING, score=0.5)),
            *(record(sample_idx=3, reason=PENDING, score=0.0), record(sample_idx=3)),
        ]
    )
    records = {r.sample_idx: r for r in read_records([written])}
    assert (records[0].score, records[0].reason) == (0.0, "ok")
    assert records[3].reason == "ok"


@pytest.mark.parametrize("field", ["weights", "prompt_hash", "generation_hash", "sample_id", "profile", "protocol"])
def test_what_changes_the_answer_changes_the_key(field):
    assert record(**{field: "other"}).key != record().key


def test_who_wrote_a_record_and_when_does_not_change_its_key():
    assert record(rank=3, time=9.0, seconds_generate=1.0, step=5, model="x").key == record().key


def test_long_golds_are_named_by_their_hash():
    gold = {"tests": "x" * LONGEST_GOLD}
    assert is_omitted(brief_gold(gold))
    assert brief_gold(gold) == brief_gold(json.loads(json.dumps(gold))) != brief_gold({"tests": "y" * LONGEST_GOLD})
    assert brief_gold({"calls": [1]}) == {"calls": [1]}


def test_compaction_keeps_every_record_and_then_removes_the_lines(written, tmp_path):
    assert compact(tmp_path) == tmp_path / PARQUET
    assert not written.exists()
    assert run_records(tmp_path) == [record(), record(sample_idx=1)]
    RecordWriter(written).append([record(), record(sample_idx=5)])  # a run that went on
    compact(tmp_path)
    assert [r.sample_idx for r in run_records(tmp_path)] == [0, 1, 5]
    RecordWriter(written).append([record(sample_idx=1, grader="another", score=0.0)])  # a run that judged it again
    compact(tmp_path)
    assert [(r.sample_idx, r.grader, r.score) for r in run_records(tmp_path)][1] == (1, "another", 0.0)


def test_a_directory_without_records_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no records"):
        run_records(tmp_path)
