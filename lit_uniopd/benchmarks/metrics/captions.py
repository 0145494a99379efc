"""Scores over captions, from the counts that the caption graders leave in ``extracted``."""

import json
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lit_uniopd.benchmarks.metrics.statistic import Statistic, ratio
from lit_uniopd.benchmarks.records import Record


class Chair(Statistic):
    """CHAIR (Rohrbach et al. 2018): share of hallucinated mentions, and of captions that have one.

    ``chair_s`` is over all captions, ``chair_s_refined`` over those that mention an object. Lower is better. ``recall``
    pools the pictures' objects over all captions, empty and cut ones too.
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
    """AMBER's generative scores as its evaluator pools them over captions.

    ``chair``: hallucinated nouns by nouns; ``cover``: annotated objects that are named; ``hal``: captions with a
    hallucination; ``cog``: annotated likely hallucinations that are named. Only cover is better when higher. As there,
    an empty caption, and here a cut one, stays in the denominators of cover, hal and cog.
    """

    size = 8
    PAIRS = (("hallucinated", "nouns"), ("covered", "truth"), ("targets", "all_targets"))

    SUFFIX = ""
    """Of the scores' names."""

    def __init__(self, n: int) -> None:
        del n

    def stats(self, group: Sequence[Record]) -> list[float]:
        sums = [0.0] * self.size
        for record in group:
            counts = counts_of(record)
            for i, (numerator, denominator) in enumerate(self.PAIRS):
                sums[2 * i] += counts.get(numerator, 0)
                sums[2 * i + 1] += counts.get(denominator, 0)
            sums[6] += counts.get("hallucinated", 0) > 0
            sums[7] += 1
        return sums

    def scores(self, sums: Tensor) -> dict[str, Tensor]:
        values = {
            "chair": ratio(sums[..., 0], sums[..., 1]),
            "cover": ratio(sums[..., 2], sums[..., 3]),
            "hal": ratio(sums[..., 6], sums[..., 7]),
            "cog": ratio(sums[..., 4], sums[..., 5]),
        }
        return {name + self.SUFFIX: value for name, value in values.items()}


class AmberVectors(Amber):
    """The same where word vectors say which nouns mean the same: ``chair_vectors`` and so on."""

    SUFFIX = "_vectors"


def counts_of(record: Record) -> dict[str, Any]:
    """The counts behind a caption's grade; none for a caption that could not be judged."""
    try:
        counts = json.loads(record.extracted or "{}")
    except ValueError:
        return {}
    return counts if isinstance(counts, dict) else {}
