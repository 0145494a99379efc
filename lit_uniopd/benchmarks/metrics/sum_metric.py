"""The sums of statistics over ranks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_uniopd.benchmarks.metrics.statistic import Statistic
from lit_uniopd.benchmarks.records import Record


class SumMetric(Metric):
    """Statistics as a torchmetrics metric: one sum state, exact over any number of ranks.

    Args:
        statistics: whose scores are computed.
    """

    full_state_update = False
    sums: Tensor

    def __init__(self, statistics: Sequence[Statistic], **options: Any) -> None:
        super().__init__(**options)
        self.statistics = list(statistics)
        size = sum(statistic.size for statistic in self.statistics)
        self.add_state("sums", default=torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")
        self.set_dtype(torch.float64)

    def update(self, group: Sequence[Record]) -> None:
        """Add one group."""
        values = [value for statistic in self.statistics for value in statistic.stats(group)]
        self.sums += torch.tensor(values, dtype=torch.float64, device=self.sums.device)

    def compute(self) -> dict[str, float]:
        """Every score by name."""
        scores: dict[str, float] = {}
        sums_by_statistic = self.sums.split([statistic.size for statistic in self.statistics])
        for statistic, sums in zip(self.statistics, sums_by_statistic, strict=True):
            scores |= {name: float(value) for name, value in statistic.scores(sums).items()}
        return scores
