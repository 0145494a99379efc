"""All scores of one benchmark from its records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from lit_uniopd.benchmarks.metrics import Statistic, build_metrics
from lit_uniopd.benchmarks.metrics.health import health_of
from lit_uniopd.benchmarks.metrics.intervals import Ends, interval
from lit_uniopd.benchmarks.records import Record, grouped
from lit_uniopd.benchmarks.spec import BenchmarkSpec, Generation

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BenchmarkScores:
    """What one model scored on one benchmark. Scores lie in [0, 1] unless their name says otherwise."""

    primary: str
    """The score that stands for the benchmark."""
    scores: dict[str, float]
    interval: dict[str, Ends] = field(default_factory=dict)
    """95 % bootstrap interval over problems."""
    breakdown: dict[str, dict[str, float]] = field(default_factory=dict)
    """Field -> value -> primary score of the rows that have it."""
    health: dict[str, float] = field(default_factory=dict)
    answers: int = 0
    groups: int = 0


def score_benchmark(records: Sequence[Record], spec: BenchmarkSpec, generation: Generation) -> BenchmarkScores:
    """Score the records of one benchmark.

    Args:
        records: answers of one model, in any order.
        spec: names metrics and breakdowns.
        generation: the run's decoding settings.
    """
    statistics = build_metrics(spec.report.metrics, generation.n, spec_n=spec.generation.n)
    groups = grouped(records)
    scores: dict[str, float] = {}
    intervals: dict[str, Ends] = {}
    for statistic in statistics:
        stats_GS = stats_of(groups, statistic)
        scores |= {name: float(value) for name, value in statistic.scores(stats_GS.sum(dim=0)).items()}
        intervals |= interval(stats_GS, statistic)
    return BenchmarkScores(
        primary=next(iter(scores), ""),
        scores=scores,
        interval=intervals,
        breakdown={name: _breakdown(records, name, spec, generation) for name in spec.report.breakdown},
        health=health_of(records),
        answers=len(records),
        groups=len(groups),
    )


def judged_card(card: BenchmarkScores | None, judged: Mapping[str, Any], records: Sequence[Record]) -> BenchmarkScores:
    """Scores that a judge has given, behind those of graders where there are some.

    Args:
        card: scores of the graders; None: there are none.
        judged: with ``scores``, ``interval`` and ``breakdown``.
        records: the answers.
    """
    if card is None:
        card = BenchmarkScores("", {}, health=health_of(records), answers=len(records), groups=len(grouped(records)))
    scores = card.scores | behind(card.scores, judged["scores"])
    return replace(
        card,
        primary=next(iter(scores), ""),
        scores=scores,
        interval=card.interval | behind(card.scores, judged["interval"]),
        breakdown=card.breakdown | ({"kind": judged["breakdown"]} if judged["breakdown"] else {}),
    )


def behind(graded: Mapping[str, Any], judged: Mapping[str, T]) -> dict[str, T]:
    """A judge's values, by names that graders' own do not have: ``judged_chair_i`` beside ``chair_i``."""
    return {f"judged_{name}" if graded else name: value for name, value in judged.items()}


def stats_of(groups: Sequence[Sequence[Record]], statistic: Statistic) -> Tensor:
    """What each group adds to the sums: float64 ``[G, S]``."""
    rows = [statistic.stats(group) for group in groups]
    return torch.tensor(rows, dtype=torch.float64).reshape(len(rows), statistic.size)


def _breakdown(records: Sequence[Record], name: str, spec: BenchmarkSpec, generation: Generation) -> dict[str, float]:
    records_by_value: dict[str, list[Record]] = {}
    for record in records:
        if name in record.breakdown:
            records_by_value.setdefault(record.breakdown[name], []).append(record)
    (statistic,) = build_metrics(spec.report.metrics[:1], generation.n, spec_n=spec.generation.n)
    scores_by_value: dict[str, float] = {}
    for value, subset in sorted(records_by_value.items()):
        # Not a torchmetrics metric: those add up over ranks, and only rank 0 is here.
        scores = statistic.scores(stats_of(grouped(subset), statistic).sum(dim=0))
        scores_by_value[value] = float(next(iter(scores.values())))
    return scores_by_value
