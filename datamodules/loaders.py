"""Loaders of streams that resume, and the bases of the datamodules that hand them out."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from lightning.pytorch import LightningDataModule

from datamodules.global_batch import DEFAULT, divide_step
from datamodules.samplers import ResumableBatchSampler, shard_batches
from lit_uniopd.distributed.preemption import unfinished_batches
from lit_uniopd.errors import UserError
from lit_uniopd.utils.progress import track
from lit_uniopd.utils.seeding import run_seed


class Weighted(Protocol):
    """A source of rows, and how often they are seen in a pass."""

    weight: float


Source = TypeVar("Source", bound=Weighted)


class BatchLoader:
    """Yields a batch for each list of row numbers.

    Deliberately not a ``torch.utils.data.DataLoader``: there is nothing to load in workers, and Lightning would put a
    padding ``DistributedSampler`` into it.

    Args:
        items: the rows.
        batches: which rows make up which batch.
        make: from the rows of a batch to the batch.
    """

    def __init__(
        self,
        items: Sequence[Any],
        batches: Sequence[list[int]] | ResumableBatchSampler,
        make: Callable[[list[Any]], Any],
    ) -> None:
        self.items = items
        self.batches = batches
        self.make = make

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for rows in self.batches:
            yield self.batch(rows)

    def batch(self, rows: Sequence[int]) -> Any:
        """The batch of these rows."""
        return self.make([self.items[row] for row in rows])


class ResumableLoader(BatchLoader):
    """A ``BatchLoader`` whose position Lightning writes into checkpoints and restores.

    Args:
        items: the rows.
        batches: their order.
        make: from the rows of a batch to the batch.
        unfinished: number of batches that were handed out but not yet trained on.
    """

    def __init__(
        self,
        items: Sequence[Any],
        batches: ResumableBatchSampler,
        make: Callable[[list[Any]], Any],
        unfinished: Callable[[], int] = lambda: 0,
    ) -> None:
        super().__init__(items, batches, make)
        self.order = batches
        self.unfinished = unfinished

    def upcoming(self) -> Any:
        """The batch that is handed out next, which it will be all the same."""
        return self.batch(self.order.upcoming())

    def state_dict(self) -> dict[str, Any]:
        return self.order.state_dict(self.unfinished())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.order.load_state_dict(state)


class StreamDataModule(LightningDataModule):
    """Base of the datamodules that train on an endless order and evaluate every row once."""

    def rank_and_world_size(self) -> tuple[int, int]:
        """Of the processes that see different data; under tensor parallelism these are not all."""
        kwargs = None if self.trainer is None else self.trainer.distributed_sampler_kwargs
        return (0, 1) if kwargs is None else (kwargs["rank"], kwargs["num_replicas"])

    def unfinished_batches(self) -> int:
        """Batches that a checkpoint written now must repeat: the one under way, and those whose gradients wait."""
        return 0 if self.trainer is None else unfinished_batches(self.trainer)

    def evaluation_loader(self, items: Sequence[Any], batch_size: int, make: Callable[[list[Any]], Any]) -> BatchLoader:
        """Each row once over all ranks; a rank that has run out gets empty batches."""
        rank, world_size = self.rank_and_world_size()
        return BatchLoader(items, shard_batches(len(items), batch_size, rank=rank, world_size=world_size), make)

    def tracked(self, items: Sequence[Any], label: str) -> Iterable[Any]:
        """The items, behind a progress bar on rank 0."""
        return track(items, label) if self.rank_and_world_size()[0] == 0 else items


class SourceDataModule(StreamDataModule):
    """Base of the datamodules that train on weighted sources."""

    sources: dict[str, dict[str, Any]]
    """Split -> option -> source, as `flagged` makes them."""
    batch_size: int
    """Of one process."""
    global_batch_size: int | None = None
    passes: int = 1
    """Batches of one process in a step; known where there is a global batch."""
    shuffle: bool
    seed: int | None
    _order: ResumableBatchSampler | None = None

    def set_batch_size(self, batch_size: int | None, global_batch_size: int | None) -> None:
        """Note what the user says of batches; ``divide_step`` makes the size of one, once there is a trainer.

        Args:
            batch_size: rows of a batch of one process; None: not said.
            global_batch_size: rows of a step over all processes; None: as many as their batches have.
        """
        at_least_one(batch_size=batch_size, global_batch_size=global_batch_size)
        self._stated_batch_size, self.global_batch_size = batch_size, global_batch_size
        self.batch_size = batch_size or (DEFAULT if global_batch_size is None else min(DEFAULT, global_batch_size))

    def divide_step(self) -> None:
        """Set ``batch_size`` and the trainer's accumulation to what the global batch asks of this many processes.

        Raises:
            UserError: if it cannot be divided over them.
        """
        if self.global_batch_size is not None and self.trainer is not None and self.trainer.state.fn == "fit":
            _, ranks = self.rank_and_world_size()
            share = divide_step(self.trainer, self.global_batch_size, self._stated_batch_size, ranks, self.passes)
            self.batch_size, self.passes = share.rows, share.passes

    def training_loader(
        self,
        items: Sequence[Any],
        make: Callable[[list[Any]], Any],
        rows: Sequence[Any],
        sampler: Callable[..., ResumableBatchSampler] = ResumableBatchSampler,
    ) -> ResumableLoader:
        """A loader of the training order, which begins with ``setup`` and goes on where a trainer reloads loaders.

        Args:
            items: the rows of all sources.
            make: from the rows of a batch to the batch.
            rows: the sampler's first argument.
            sampler: the kind of order.

        Raises:
            UserError: under --trainer.overfit_batches, which a stream cannot obey.
        """
        if self.trainer is not None and self.trainer.overfit_batches > 0:  # pyright: ignore[reportAttributeAccessIssue] (set by a connector)
            raise UserError("--trainer.overfit_batches does not hold a stream still; use --data.train.limit instead.")
        if self._order is None:
            rank, world_size = self.rank_and_world_size()
            self._order = sampler(
                rows,
                weights=[source.weight for source in self.sources["train"].values()],
                batch_size=self.batch_size,
                passes=self.passes,
                shuffle=self.shuffle,
                seed=run_seed(self.seed),
                rank=rank,
                world_size=world_size,
            )
        return ResumableLoader(items, self._order, make, self.unfinished_batches)


def flagged(split: str, sources: Source | list[Source] | None) -> dict[str, Source]:
    """Sources by the option they came from; several of one option are numbered.

    Raises:
        UserError: a weight that is not positive.
    """
    source_list = sources if isinstance(sources, list) else [] if sources is None else [sources]
    numbered = len(source_list) > 1
    by_flag = {f"--data.{split}" + f"[{i}]" * numbered: source for i, source in enumerate(source_list)}
    for flag, source in by_flag.items():
        if not source.weight > 0:
            raise UserError(f"{flag}.weight must be positive, not {source.weight}; remove a source to leave it out.")
    return by_flag


def at_least_one(**numbers: int | None) -> None:
    """Refuse numbers below one; None is no limit.

    Raises:
        UserError: naming the option of the datamodule.
    """
    for flag, number in numbers.items():
        if number is not None and number < 1:
            raise UserError(f"--data.{flag} must be at least 1, not {number}.")
