"""Means over benchmarks: of each domain, and of the 16."""

from collections.abc import Mapping

from lit_uniopd.benchmarks.spec import BenchmarkSpec

THE_16 = (
    *("aime24", "aime25", "hmmt_feb25", "hmmt_nov25"),
    *("humaneval_plus", "mbpp_plus", "livecodebench"),
    *("mathvision", "dynamath", "we_math"),
    *("logicvista", "visulogic"),
    *("ai2d", "chartqa", "docvqa", "infovqa"),
)
"""The benchmarks of Uni-OPD."""


def domain_means(scores: Mapping[str, float], specs: Mapping[str, BenchmarkSpec]) -> dict[str, float | None]:
    """Weighted mean of the benchmarks of each domain; None where one of those in ``specs`` has no score.

    Args:
        scores: ``BenchmarkSpec.key`` -> score.
        specs: what the run evaluates.
    """
    means: dict[str, float | None] = {}
    for domain in dict.fromkeys(spec.domain for spec in specs.values()):
        members = [(scores.get(key), spec.report.weight) for key, spec in specs.items() if spec.domain == domain]
        scored = [(score, weight) for score, weight in members if score is not None]
        total = sum(weight for _, weight in scored)
        means[domain] = sum(s * w for s, w in scored) / total if len(scored) == len(members) and total > 0 else None
    return means


def mean16(scores: Mapping[str, float], specs: Mapping[str, BenchmarkSpec]) -> float | None:
    """Unweighted mean over the 16 benchmarks of Uni-OPD; None unless each of them has exactly one score."""
    scores_by_id: dict[str, list[float]] = {name: [] for name in THE_16}
    for key, spec in specs.items():
        if spec.id in scores_by_id and key in scores:
            scores_by_id[spec.id].append(scores[key])
    if any(len(values) != 1 for values in scores_by_id.values()):
        return None
    return sum(values[0] for values in scores_by_id.values()) / len(scores_by_id)
