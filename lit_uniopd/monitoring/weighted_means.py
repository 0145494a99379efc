"""Means over tokens, samples and ranks that divide once, at the end."""

from collections.abc import Mapping, Sequence

import torch
from lightning import LightningModule
from torch import Tensor


class WeightedMeans:
    """Named (sum, count) pairs; a mean of per-batch or per-rank means would give small ones too much weight.

    Every rank must add the same names; ``expect`` declares those for which a rank may have no value.
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, float] = {}

    def expect(self, *names: str) -> None:
        """Declare names, with a count of 0."""
        for name in names:
            self.add(name, 0.0, 0.0)

    def add(self, name: str, total: float | Tensor, count: float | Tensor = 1.0) -> None:
        """Add a sum over ``count`` values."""
        self._sums[name] = self._sums.get(name, 0.0) + float(total)
        self._counts[name] = self._counts.get(name, 0.0) + float(count)

    def merge(self, other: "WeightedMeans") -> None:
        """Add another's sums and counts, name by name."""
        for name, (total, count) in other.state().items():
            self.add(name, total, count)

    def state(self) -> dict[str, list[float]]:
        """Sums and counts, for a checkpoint."""
        return {name: [self._sums[name], self._counts[name]] for name in self._sums}

    @classmethod
    def from_state(cls, state: Mapping[str, Sequence[float]]) -> "WeightedMeans":
        """Restore what `state` returned."""
        means = cls()
        for name, (total, count) in state.items():
            means.add(name, total, count)
        return means

    def reduce(self, module: LightningModule) -> dict[str, float]:
        """Means over all ranks, by one collective; names with nothing to average are left out."""
        names = sorted(self._sums)
        table = torch.tensor(
            [[self._sums[name], self._counts[name]] for name in names], dtype=torch.float64, device=module.device
        )
        if module.trainer.world_size > 1:
            table = module.trainer.strategy.reduce(table, reduce_op="sum")
        return {name: float(s / c) for name, (s, c) in zip(names, table.tolist(), strict=True) if c > 0}
