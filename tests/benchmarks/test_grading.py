"""An error inside a grader is counted under its name, from the grade to the records' health."""

from lit_uniopd.benchmarks.grading import with_grades
from lit_uniopd.benchmarks.metrics.health import health_of
from lit_uniopd.benchmarks.records import Record
from lit_uniopd.benchmarks.report.summary import read_parquet, write_parquet
from lit_uniopd.rewards import GRADERS


def record(**changes) -> Record:
    places = dict.fromkeys(("benchmark", "protocol", "profile", "fingerprint", "sample_id", "group_id"), "x")
    hashes = dict.fromkeys(("prompt_hash", "generation_hash", "weights", "model"), "x")
    return Record(**{**places, **hashes, "version": 1, "sample_idx": 0, "step": 0, **changes})


def test_a_grader_that_breaks_down_is_named_in_the_record_and_in_the_health(tmp_path):
    broken = GRADERS["yes_no"]("perhaps", "yes")
    right, wrong = GRADERS["exact"]("2", "2"), GRADERS["exact"]("2", "3")
    assert (broken.correct, broken.reason) == (None, "error")
    own = record(grader="yes_no", also={"exact": 0.0})
    further = record(grader="exact", also={"yes_no": 0.0})
    records = [
        with_grades(own, [broken, right], sandbox=None),
        with_grades(further, [right, broken], sandbox=None),
        with_grades(further, [wrong, right], sandbox=None),
        with_grades(own, [broken, broken], sandbox=None),
    ]
    assert [r.failed_graders for r in records] == ["yes_no", "yes_no", "", "yes_no,exact"]
    health = health_of(records)
    assert (health["error/yes_no"], health["error/exact"]) == (0.75, 0.25)
    assert health["error"] == 0.5  # of the benchmark's own grader
    write_parquet(records, tmp_path / "records.parquet")
    assert [r.failed_graders for r in read_parquet(tmp_path / "records.parquet")] == [r.failed_graders for r in records]


def test_without_errors_no_grader_is_named():
    records = [with_grades(record(grader="exact", also={}), [GRADERS["exact"]("2", "2")], sandbox=None)]
    assert not [name for name in health_of(records) if name.startswith("error/")]
