"""What the graders are asked about an answer, and the record with their verdicts."""

from collections.abc import Iterable
from dataclasses import replace

from lit_uniopd import __version__
from lit_uniopd.benchmarks.records import Record
from lit_uniopd.benchmarks.shards import Request
from lit_uniopd.grade import Grade
from lit_uniopd.rewards import GradeItem, is_custom
from lit_uniopd.rewards.custom import source_digest

UNGRADED = Grade(correct=None, score=0.0, reason="no_grader")


def grade_items(record: Record, request: Request) -> list[GradeItem]:
    """What the graders are asked about one answer, by the benchmark's own grader first."""
    scoring, example = request.benchmark.spec.scoring, request.example
    grader = request.benchmark.grader(example)
    options = {**scoring.options, **example.options}
    first = [] if grader is None else [(grader, options)]
    return [
        GradeItem(name, example.gold, record.response, example.row, arguments, example.messages)
        for name, arguments in [*first, *((name, {}) for name in scoring.also)]
    ]


def version_of(graders: Iterable[str]) -> str:
    """Of what judges: this package, and the files of a user's graders."""
    return "+".join([__version__, *(source_digest(name) for name in graders if is_custom(name))])


def with_grades(record: Record, grades: list[Grade], *, sandbox: str | None) -> Record:
    """The record with its verdicts; the first is that of the benchmark's own grader."""
    grade, *further_grades = grades if record.grader else [UNGRADED, *grades]
    names = [record.grader, *record.also]
    failed = [name for name, given in zip(names, [grade, *further_grades], strict=True) if given.reason == "error"]
    # A cut answer without a result is a length problem, whatever the grader says of it.
    truncated = grade.reason == "no_answer" and record.finish == "length"
    return replace(
        record,
        correct=grade.correct,
        score=grade.score,
        extracted=grade.extracted,
        reason="truncated" if truncated else grade.reason,
        also={name: further_grade.score for name, further_grade in zip(record.also, further_grades, strict=True)},
        failed_graders=",".join(failed),
        grader_version=version_of(names),
        sandbox=sandbox if record.grader.startswith("code_") else None,
    )
