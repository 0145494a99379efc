"""Judging the recorded answers of a run anew."""

import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from lit_uniopd.benchmarks.grading import with_grades
from lit_uniopd.benchmarks.harness.args import PREFIXES
from lit_uniopd.benchmarks.heldout import recorded_spec
from lit_uniopd.benchmarks.loading import load_benchmark
from lit_uniopd.benchmarks.metrics.scorecard import score_benchmark
from lit_uniopd.benchmarks.records import Record, by_benchmark, is_omitted, last_evaluation
from lit_uniopd.benchmarks.registry import find_spec
from lit_uniopd.benchmarks.report.means import domain_means, mean16
from lit_uniopd.benchmarks.report.summary import (
    PARQUET,
    SUMMARY,
    compact,
    graded_by,
    run_records,
    write_parquet,
)
from lit_uniopd.benchmarks.spec import BenchmarkSpec
from lit_uniopd.errors import UserError
from lit_uniopd.grade import Grade
from lit_uniopd.rewards import GradeItem, GraderPool, is_custom
from lit_uniopd.rewards.grade import breakdown_of
from lit_uniopd.utils.progress import follow, progress_bar
from lit_uniopd.utils.write_json import write_json

log = logging.getLogger(__name__)


def regrade(directory: Path, graders: GraderPool) -> tuple[list[Record], list[Record]]:
    """Judge every answer of a run with today's graders.

    The old records stay beside the new ones as ``records.before-N.parquet``.

    Args:
        directory: of the run.
        graders: where answers are judged.

    Returns:
        The records before and after, in the same order.

    Raises:
        UserError: if there are no records, or the tests of their programs cannot be loaded.
    """
    compact(directory)
    old = run_records(directory)
    golds = _omitted_golds(old)
    items: list[GradeItem] = []
    for record in old:
        items += _grade_items(record, golds)
    with progress_bar(len(items), "grading answers", "answer") as bar:
        grades = iter(graders.grade(items, on_progress=follow(bar)))
    new = [_regrade_record(record, [next(grades) for _ in _grade_items(record, golds)], graders) for record in old]
    _log_kept(old, new)
    number = len(list(directory.glob("records.before-*.parquet"))) + 1
    write_parquet(new, scratch := directory / f".{PARQUET}.tmp")
    os.replace(directory / PARQUET, directory / f"records.before-{number}.parquet")
    os.replace(scratch, directory / PARQUET)
    _update_summary(directory / SUMMARY, new)
    return old, new


def _update_summary(path: Path, records: Sequence[Record]) -> None:
    """Replace the scores of the run's last evaluation; everything else stays as it was."""
    if not path.exists():
        return
    summary = json.loads(path.read_text(encoding="utf-8"))
    specs: dict[str, BenchmarkSpec] = {}
    for key, benchmark_records in by_benchmark(last_evaluation(records)).items():
        if key not in summary["benchmarks"] or not benchmark_records[0].grader or key.startswith(PREFIXES):
            continue
        specs[key] = recorded_spec(benchmark_records[0])
        generation = replace(specs[key].generation, n=1 + max(record.sample_idx for record in benchmark_records))
        card = score_benchmark(benchmark_records, specs[key], generation)
        summary["benchmarks"][key] |= {"scores": card.scores, "card": asdict(card)}
    complete = {
        key: next(iter(summary["benchmarks"][key]["scores"].values()))
        for key in specs
        if summary["benchmarks"][key]["complete"]
    }
    regraded = {"domains": domain_means(complete, specs), "mean16": mean16(complete, specs), "regraded": graded_by()}
    write_json(path, summary | regraded)


def _grade_items(record: Record, golds: dict[tuple[str, str, str], Any]) -> list[GradeItem]:
    gold = record.gold
    if is_omitted(gold):
        gold = golds[_example_key(record)]
    if record.benchmark.startswith(PREFIXES):  # harnesses judge by documents, which records do not hold
        return []
    items = [GradeItem(record.grader, gold, record.response, None, record.options)] if record.grader else []
    return items + [GradeItem(name, gold, record.response) for name in record.also]


def _regrade_record(record: Record, grades: list[Grade], graders: GraderPool) -> Record:
    names = ([record.grader] if record.grader else []) + list(record.also)
    lost = any(is_custom(name) and grade.reason == "error" for name, grade in zip(names, grades, strict=False))
    return with_grades(record, grades, sandbox=graders.sandbox_backend) if grades and not lost else record


def _log_kept(old: Sequence[Record], new: Sequence[Record]) -> None:
    """Say whose verdicts stay: records hold no rows and no prompts, which a user's grader may need."""
    same = [before for before, after in zip(old, new, strict=True) if before is after]
    kept = Counter(name for record in same for name in (record.grader, *record.also) if is_custom(name))
    for harness, count in Counter(r.grader for r in same if r.benchmark.startswith(PREFIXES)).items():
        log.warning(
            "%d verdicts of %s stay as they were: run `uniopd validate` again, which takes the answers over and "
            "has them judged.",
            count,
            harness,
        )
    for name, count in kept.items():
        log.warning(
            "%d verdicts of %s stay as they were: it broke down here (%s); records hold text and gold answer, but "
            "neither rows nor prompts.",
            count,
            name,
            breakdown_of(name),
        )


def _example_key(record: Record) -> tuple[str, str, str]:
    return f"{record.benchmark}@{record.protocol}", record.profile, record.sample_id


def _omitted_golds(records: Sequence[Record]) -> dict[tuple[str, str, str], Any]:
    """Long gold answers, which records hold as a hash only, read from their data sets."""
    sources = {
        (example_key[0], example_key[1]): r for r in records if is_omitted(r.gold) and (example_key := _example_key(r))
    }
    golds: dict[tuple[str, str, str], Any] = {}
    for (key, profile), record in sources.items():
        benchmark = load_benchmark(find_spec(key), profile)  # type: ignore[arg-type]  # recorded from a ProfileName
        if benchmark.fingerprint != record.fingerprint:
            raise UserError(
                f"The rows of {key} are not those that the run was graded on; pin hub.revision to theirs in a YAML "
                "file of your own, or evaluate again."
            )
        golds |= {(key, profile, example.id): example.gold for example in benchmark.examples}
    return golds


def changes_table(old: Sequence[Record], new: Sequence[Record]) -> Table:
    """Mean score of each evaluation before and after, and how many verdicts changed."""
    table = Table(title="Regraded")
    for column in ("benchmark", "model", "step"):
        table.add_column(column)
    for column in ("answers", "mean score before", "after", "changed"):
        table.add_column(column, justify="right")
    evaluations: dict[tuple[str, str, int], list[tuple[Record, Record]]] = {}
    for pair in zip(old, new, strict=True):
        evaluations.setdefault((f"{pair[0].benchmark}@{pair[0].protocol}", pair[0].model, pair[0].step), []).append(
            pair
        )
    for (key, model, step), pairs in sorted(evaluations.items()):
        before, after = (sum(pair[i].score for pair in pairs) / len(pairs) for i in (0, 1))
        changed = sum(a.correct != b.correct or a.score != b.score for a, b in pairs)
        table.add_row(key, model, str(step), str(len(pairs)), f"{before:.1%}", f"{after:.1%}", str(changed))
    return table
