"""Scores over captions, from the counts that the caption graders leave in ``extracted``."""

import json
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lit_uniopd.benchmarks.metrics.statistic import Statistic, ratio
from lit_uniopd.benchmarks.records import Record


class Chair(Statistic):
    """CHAIR (Rohrbach et al. 2018): share of hallucinated mentions, and of captions that have one.

    ``chair_s`` is over all captions, ``chair_s_refined`` over those that mention an object. Lower is better.
    """

    size = 8

    def __init__(self, n: int) -> None:
        del n

    def stats(self, group: Sequence[Record]) -> list[float]:
        sums = [0.0] * self.size
        for record in group:
            counts = counts_of(record)
            mentions, hallucinated = counts.get("mentions", 0), counts.get("hallucinated", 0)
            sums[0] += hallucinated
            sums[1] += mentions
            sums[2] += hallucinated > 0
            sums[3] += 1
            sums[4] += mentions > 0
            sums[5] += counts.get("hit", 0)
            sums[6] += counts.get("truth", 0)
            sums[7] += len(record.response.split())
        return sums

    def scores(self, sums: Tensor) -> dict[str, Tensor]:
        return {
            "chair_i": ratio(sums[..., 0], sums[..., 1]),
            "chair_s": ratio(sums[..., 2], sums[..., 3]),
            "chair_s_refined": ratio(sums[..., 2], sums[..., 4]),
            "recall": ratio(sums[..., 5], sums[..., 6]),
            "words": ratio(sums[..., 7], sums[..., 3]),
        }


class Amber(Statistic):
    """AMBER's generative scores, averaged over captions as in its evaluator: CHAIR, Cover, Hal, Cog."""

    size = 5
    NAMES = ("chair", "cover", "hal", "cog")

    def __init__(self, n: int) -> None:
        del n

    def stats(self, group: Sequence[Record]) -> list[float]:
        counts = [counts_of(record) for record in group]
        return [*(float(sum(c.get(name, 0.0) for c in counts)) for name in self.NAMES), float(len(group))]

    def scores(self, sums: Tensor) -> dict[str, Tensor]:
        return {name: ratio(sums[..., i], sums[..., 4]) for i, name in enumerate(self.NAMES)}


def counts_of(record: Record) -> dict[str, Any]:
    """The counts behind a caption's grade; none for a caption that could not be judged."""
    try:
        found = json.loads(record.extracted or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
