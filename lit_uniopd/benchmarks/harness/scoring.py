"""Scores of the harnesses' tasks and groups, as they aggregate them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

from lit_uniopd.benchmarks.harness.scored_task import TaskScores, is_number
from lit_uniopd.benchmarks.harness.tasks import quiet
from lit_uniopd.benchmarks.metrics.health import health_of
from lit_uniopd.benchmarks.metrics.scorecard import BenchmarkScores
from lit_uniopd.benchmarks.records import Record
from lit_uniopd.benchmarks.spec import Benchmark

NORMAL = NormalDist().inv_cdf(0.975)
"""Standard errors to either side of a score within which 95 % of a normal distribution lie."""


@dataclass(frozen=True, slots=True)
class HarnessScores:
    """Scores of all tasks of harnesses in an evaluation."""

    tasks: dict[str, TaskScores]
    """By ``Benchmark.key``."""
    groups: dict[str, dict[str, float]]
    """By name with the prefix: ``lm_eval:mmlu``."""
    answers: dict[str, int]
    """Key -> how many there are, over all ranks."""


def harness_scores(
    benchmarks: Mapping[str, Benchmark],
    answers: Mapping[str, Mapping[tuple[str, int], str]],
    directory: Path | None = None,
) -> HarnessScores:
    """Scores of tasks and of their groups.

    Args:
        benchmarks: by key, each with a task of a harness.
        answers: key -> (row, number of the answer) -> answer.
        directory: of the run.
    """
    tasks = {key: benchmark.harness.scores(answers[key], directory) for key, benchmark in benchmarks.items()}
    by_group: dict[str, dict[str, float]] = {}
    for prefix in dict.fromkeys(benchmark.harness.prefix for benchmark in benchmarks.values()):
        members = {key: benchmark for key, benchmark in benchmarks.items() if benchmark.harness.prefix == prefix}
        groups = {group.name: group for benchmark in members.values() for group in benchmark.harness.groups}
        by_name = {members[key].spec.title: tasks[key] for key in members if tasks[key].documents}
        by_group |= {f"{prefix}{name}": scores for name, scores in group_scores(by_name, groups.values()).items()}
    return HarnessScores(tasks, by_group, {key: len(texts) for key, texts in answers.items()})


def harness_card(scores: TaskScores, records: Sequence[Record]) -> BenchmarkScores:
    """Scores with intervals from the harness's standard errors, and the health of the answers."""
    ends = {name: NORMAL * error for name, error in scores.errors.items()}
    return BenchmarkScores(
        primary=next(iter(scores.values), ""),
        scores=scores.values,
        interval={name: (scores.values[name] - end, scores.values[name] + end) for name, end in ends.items()},
        health=health_of(records),
        answers=len(records),
        groups=scores.documents,
    )


def group_scores(scores: Mapping[str, TaskScores], groups: Iterable[Any]) -> dict[str, dict[str, float]]:
    """Group -> the harness's aggregates over its tasks, of the groups that have some and all whose tasks have scores.

    Args:
        scores: of tasks, by the harness's names of them.
        groups: `lm_eval.api.group.Group`, or `LmmsGroup`.
    """
    table = {
        name: {
            "sample_len": task.documents,
            **task.values,
            **{key.replace(",", "_stderr,", 1): task.errors.get(key, "N/A") for key in task.values},
        }
        for name, task in scores.items()
    }
    results: dict[str, dict[str, float]] = {}
    for group in groups:
        members = [task.task_name for task in group.get_all_tasks()]
        if group.has_aggregation and all(name in table for name in members):
            with quiet():
                aggregates = group.aggregate(table)
            results[group.name] = {k: float(v) for k, v in aggregates.items() if "," in k and is_number(v)}
    return results
