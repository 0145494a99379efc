"""Scores of lm-eval's tasks and groups, as it aggregates them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from lit_uniopd.benchmarks.harness.tasks import quiet
from lit_uniopd.benchmarks.metrics.health import health_of
from lit_uniopd.benchmarks.metrics.scorecard import BenchmarkScores
from lit_uniopd.benchmarks.records import Record
from lit_uniopd.benchmarks.spec import Benchmark

NORMAL = NormalDist().inv_cdf(0.975)
"""Standard errors to either side of a score within which 95 % of a normal distribution lie."""


@dataclass(frozen=True, slots=True)
class TaskScores:
    """Scores of one task, by lm-eval's names: ``acc,none`` is the metric, then the filter."""

    values: dict[str, float]
    errors: dict[str, float]
    """Standard errors, of the scores that have one."""
    documents: int


@dataclass(frozen=True, slots=True)
class HarnessScores:
    """Scores of all of lm-eval's tasks in an evaluation."""

    tasks: dict[str, TaskScores]
    """By ``Benchmark.key``."""
    groups: dict[str, dict[str, float]]
    answers: dict[str, int]
    """Key -> how many there are, over all ranks."""


def harness_scores(
    benchmarks: Mapping[str, Benchmark], answers: Mapping[str, Mapping[tuple[str, int], str]]
) -> HarnessScores:
    """Scores of tasks and of their groups.

    Args:
        benchmarks: by key, each with a task of lm-eval's.
        answers: key -> (row, number of the answer) -> answer.
    """
    tasks = {key: benchmark.harness.scores(answers[key]) for key, benchmark in benchmarks.items()}
    groups = {group.name: group for benchmark in benchmarks.values() for group in benchmark.harness.groups}
    by_name = {benchmarks[key].spec.title: scores for key, scores in tasks.items() if scores.documents}
    counts = {key: len(texts) for key, texts in answers.items()}
    return HarnessScores(tasks, group_scores(by_name, groups.values()), counts)


def harness_card(scores: TaskScores, records: Sequence[Record]) -> BenchmarkScores:
    """Scores with intervals from lm-eval's standard errors, and the health of the answers."""
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
    """Group -> lm-eval's aggregates over its tasks, of the groups that have some and all whose tasks have scores.

    Args:
        scores: of tasks, by lm-eval's names of them.
        groups: `lm_eval.api.group.Group`.
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


def is_number(value: Any) -> bool:
    """Whether it is one number, of Python's or numpy's kinds."""
    if isinstance(value, str | bytes | tuple | list | dict) or value is None:
        return False
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
