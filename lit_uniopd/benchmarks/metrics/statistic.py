"""A statistic: what the answers to one problem add to the sums, and the scores of the sums.

Both halves are pure, so that sums over ranks, bootstrap intervals and paired comparisons are the same computation.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_uniopd.benchmarks.records import Record


class Statistic(ABC):
    """One kind of score.

    A *group* is all recorded answers to all rows of one problem, in the order of rows and answers. Answers without a
    verdict count as wrong; the health scores show how many there are.
    """

    size: int
    """Number of sums."""

    @abstractmethod
    def stats(self, group: Sequence[Record]) -> list[float]:
        """What one group adds to the sums."""

    @abstractmethod
    def scores(self, sums: Tensor) -> dict[str, Tensor]:
        """Scores ``[...]`` by name from sums ``[..., size]``; the first stands for the benchmark. 0 where undefined."""


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """``numerator / denominator``, 0 where the denominator is 0."""
    return torch.where(denominator > 0, numerator / denominator.clamp(min=1e-300), torch.zeros_like(numerator))


def by_row(group: Sequence[Record]) -> list[list[Record]]:
    """The answers to each row of a group."""
    rows: dict[str, list[Record]] = {}
    for record in group:
        rows.setdefault(record.sample_id, []).append(record)
    return list(rows.values())
