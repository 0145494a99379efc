"""Which rows make up which batch: a resumable training order, and shards for evaluation."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from lit_uniopd.errors import UserError
from lit_uniopd.utils.seeding import derive_seed


class ResumableBatchSampler(Sampler[list[int]]):
    """Batches of row numbers from several weighted sources, as one endless stream that can be interrupted and resumed.

    The stream is pass after pass over the data. A pass takes ``round(weight * size)`` rows of each source, in an order
    that depends only on the seed and the number of the pass. Rows that one pass leaves out come in the next: with
    weight 0.5 every row comes once in two passes, with weight 2 twice in each.

    An epoch is the full batches that fit into one pass, and iterating yields one epoch. The rows left over open the
    next epoch, so every batch is full, every rank has equally many, and no row is lost.

    The position in the stream is counted in rows over all ranks. The state is therefore the same on every rank, and a
    run may be resumed with another batch size or number of ranks: the rows go on where they stopped.

    Args:
        sizes: rows of each source; row numbers run over the concatenated sources.
        weights: how often a source's rows are seen in a pass, relative to once. Default: 1.0 each.
        batch_size: rows in a batch of one rank; one batch of all ranks consumes ``batch_size * world_size``.
        passes: batches whose gradients make one optimizer step; an epoch has only whole ones.
        shuffle: False: the sources one after the other, each in its own order.
        seed: of the order.
        rank: this process among those that see different data.
        world_size: their number.

    Raises:
        ValueError: naming the argument that is out of range.
        UserError: if a pass does not fill one step.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        weights: Sequence[float] | None = None,
        batch_size: int,
        passes: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.sizes = list(sizes)
        self.weights = [1.0] * len(self.sizes) if weights is None else [float(weight) for weight in weights]
        if len(self.weights) != len(self.sizes) or min(self.weights, default=1.0) <= 0:
            raise ValueError(f"weights must be one positive number per source; {self.weights} for sizes {self.sizes}")
        if not self.sizes or min(self.sizes) < 1:
            raise ValueError(f"sizes must be positive, one per source, not {self.sizes}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in [0, {world_size}), not {rank}")
        self.takes = [max(1, round(w * size)) for w, size in zip(self.weights, self.sizes, strict=True)]
        self.rows_per_pass = sum(self.takes)
        self.rows_per_batch = batch_size * world_size
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.passes = passes
        if passes * self.rows_per_batch > self.rows_per_pass:
            size = f"batch_size {batch_size}" if passes == 1 else f"global_batch_size {passes * self.rows_per_batch}"
            raise UserError(
                f"--data.{size} on {world_size} rank(s) takes {passes * self.rows_per_batch} rows a step, but a pass "
                f"over the training data has only {self.rows_per_pass}; lower it or give more data."
            )
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._consumed = 0
        self._cached: tuple[int, Tensor] = (-1, torch.empty(0))

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.rows_per_pass // (self.passes * self.rows_per_batch) * self.passes

    def __iter__(self) -> Iterator[list[int]]:
        # Lightning takes len(self) batches and no more, so code after the last yield would never run: the position
        # moves before each yield.
        for _ in range(len(self)):
            rows = self.upcoming()
            self._consumed += self.rows_per_batch
            yield rows

    def upcoming(self) -> list[int]:
        """The batch that is handed out next, of the next epoch behind the last of one; the position stays."""
        start = self._consumed
        return [self._row(n) for n in range(start + self.rank, start + self.rows_per_batch, self.world_size)]

    def state_dict(self, unfinished: int = 0) -> dict[str, Any]:
        """Position in the stream, and what its order depends on.

        Args:
            unfinished: steps whose batch was handed out but not trained on; they come again after resuming.
        """
        consumed = self._consumed - unfinished * self.rows_per_batch
        number, position = divmod(consumed, self.rows_per_pass)
        return {"pass": number, "position": position, "order": self._order()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            UserError: if it is of other data or another order, which could not be continued exactly.
        """
        changed = [
            f"{key} was {state['order'][key]}, is {value}"
            for key, value in self._order().items()
            if value != state["order"][key]
        ]
        if changed:
            raise UserError(
                f"The checkpoint stopped in the middle of other training data ({'; '.join(changed)}); resume with the "
                "--data options and --seed_everything of its run, or start a new run from its exported weights."
            )
        self._consumed = state["pass"] * self.rows_per_pass + state["position"]

    def _order(self) -> dict[str, Any]:
        return {"seed": self.seed, "shuffle": self.shuffle, "sizes": self.sizes, "weights": self.weights}

    def _row(self, n: int) -> int:
        number, position = divmod(n, self.rows_per_pass)
        if self._cached[0] != number:
            self._cached = (number, self._rows_of_pass(number))
        return int(self._cached[1][position])

    def _rows_of_pass(self, number: int) -> Tensor:
        rows: list[Tensor] = []
        offset = 0
        for source, (size, take) in enumerate(zip(self.sizes, self.takes, strict=True)):
            # The source is a stream of its own, permutation after permutation; a pass cuts the next `take` rows.
            first, last = number * take, (number + 1) * take
            for lap in range(first // size, -(-last // size)):
                order = self._permutation(size, "source", source, lap)
                rows.append(offset + order[max(first - lap * size, 0) : last - lap * size])
            offset += size
        return torch.cat(rows)[self._permutation(self.rows_per_pass, "pass", number)]

    def _permutation(self, size: int, *keys: int | str) -> Tensor:
        if not self.shuffle:
            return torch.arange(size)
        generator = torch.Generator().manual_seed(derive_seed(self.seed, *keys))
        return torch.randperm(size, generator=generator)


def shard_batches(size: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> list[list[int]]:
    """Row numbers of one rank for evaluation: over the ranks, each row exactly once.

    Rank r takes rows r, r + world_size, ... in batches of ``batch_size``. A rank that runs out early gets empty
    batches, so that all ranks take equally many steps and collective calls stay in step.
    """
    rows = list(range(rank, size, world_size))
    longest = -(-size // world_size)
    return [rows[start : start + batch_size] for start in range(0, longest, batch_size)]
