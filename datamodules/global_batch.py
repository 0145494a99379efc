"""A step of as many rows however many processes take part in it."""

from dataclasses import dataclass
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_info

from lit_uniopd.errors import UserError

DEFAULT = 8
"""Rows of a batch where nothing is said."""


@dataclass(frozen=True, slots=True)
class BatchShare:
    """What one process does of a step."""

    rows: int
    """Of a batch, which one pass takes."""
    passes: int
    """Batches whose gradients are added up."""


def share_of_rank(global_batch_size: int, ranks: int, largest: int | None) -> BatchShare:
    """Divide a step over processes, and each one's share into batches of one size.

    Args:
        global_batch_size: rows of a step.
        ranks: processes that see different rows.
        largest: rows of a batch at most; None: a process takes its share at once.

    Raises:
        UserError: if the processes cannot have equal shares.

    Example:
        >>> share_of_rank(128, 8, largest=6)
        BatchShare(rows=4, passes=4)
    """
    rows, rest = divmod(global_batch_size, ranks)
    if rest:
        raise UserError(
            f"--data.global_batch_size {global_batch_size} cannot be divided over {ranks} processes; choose a multiple "
            f"of {ranks}, {max(1, round(global_batch_size / ranks)) * ranks} for example."
        )
    batch = rows if largest is None else max(d for d in range(1, min(largest, rows) + 1) if rows % d == 0)
    return BatchShare(batch, rows // batch)


def divide_step(
    trainer: Trainer, global_batch_size: int, batch_size: int | None, ranks: int, passes: int = 1
) -> BatchShare:
    """Let a trainer accumulate as many batches as a step of so many rows needs.

    Args:
        trainer: with its module, whose steps are its own business under manual optimization.
        global_batch_size: rows of a step over all processes.
        batch_size: rows of a batch at most, as the user has said; None: nothing was said.
        ranks: processes that see different rows.
        passes: what the trainer was told here in its last fit.

    Raises:
        UserError: if the trainer or the datamodule has been told something else.
    """
    module: Any = trainer.lightning_module
    rollouts = not module.automatic_optimization
    if rollouts and batch_size is not None:
        raise UserError(
            f"--data.batch_size {batch_size} and --data.global_batch_size {global_batch_size} both say how many "
            "prompts a rollout has; give the global one alone, or set it to null."
        )
    if trainer.accumulate_grad_batches not in (1, passes):
        raise UserError(
            f"--trainer.accumulate_grad_batches {trainer.accumulate_grad_batches} is computed where "
            "--data.global_batch_size is given; leave it out."
        )
    share = share_of_rank(global_batch_size, ranks, None if rollouts else batch_size or DEFAULT)
    if not rollouts:
        trainer.accumulate_grad_batches = share.passes
    rank_zero_info(
        f"A {'rollout' if rollouts else 'step'} takes {global_batch_size} rows: {share.rows} in a batch, "
        f"{share.passes} batch{'es' if share.passes > 1 else ''} a process, {ranks} process{'es' if ranks > 1 else ''}."
    )
    return share
