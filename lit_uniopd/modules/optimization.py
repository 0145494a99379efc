"""What comes of `--model.optimizer` and `--model.lr_scheduler`, and how many optimizer steps a run has."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lit_uniopd.errors import UserError, first_line
from lit_uniopd.schedules import WarmupCosine, unknown_length


def default_optimizer(params: Any) -> torch.optim.Optimizer:
    """AdamW with the settings of Uni-OPD's released scripts."""
    return torch.optim.AdamW(params, lr=1e-6, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.1)


def new_optimizer(make: OptimizerCallable, parameters: list[Parameter]) -> Optimizer:
    """The optimizer of `--model.optimizer`.

    Raises:
        UserError: if its options are wrong, or if it cannot step on these weights.
    """
    try:
        optimizer = make(parameters)
    except (ValueError, TypeError) as error:
        raise UserError(f"--model.optimizer: {first_line(error)}; change that option.") from error
    package = type(optimizer).__module__.partition(".")[0]
    if package in ("bitsandbytes", "torchao") and any(isinstance(p, DTensor) for p in parameters):
        cannot = "step on" if package == "bitsandbytes" else "save its states of"
        raise UserError(
            f"--model.optimizer {type(optimizer).__name__} cannot {cannot} weights that FSDP shards ({package}'s); use "
            "torch.optim.AdamW, or for 8-bit states lit_uniopd.optimizers.AdamW8bit."
        )
    return optimizer


def new_schedule(make: LRSchedulerCallable, optimizer: Optimizer) -> LRScheduler:
    """The schedule of `--model.lr_scheduler`.

    Raises:
        UserError: if its options are wrong, or if it is not one of optimizer steps.
    """
    try:
        schedule = make(optimizer)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"--model.lr_scheduler: {first_line(error)}; change that option.") from error
    if isinstance(schedule, ReduceLROnPlateau):
        raise UserError(
            "--model.lr_scheduler ReduceLROnPlateau waits for a score of a validation, but a schedule is stepped after "
            "each optimizer step; use lit_uniopd.schedules.WarmupCosine or another of torch.optim.lr_scheduler."
        )
    return schedule


def check_options(
    make_optimizer: OptimizerCallable, make_schedule: LRSchedulerCallable | None, trainer: Trainer
) -> None:
    """Try both on a weight of their own, before any model is loaded.

    Raises:
        UserError: if their options are wrong, or if the schedule needs a run that ends and the trainer has no limit.
    """
    optimizer = new_optimizer(make_optimizer, [Parameter(torch.zeros(1))])
    schedule = None if make_schedule is None else new_schedule(make_schedule, optimizer)
    endless = trainer.max_steps == -1 and trainer.max_epochs in (None, -1)
    if endless and isinstance(schedule, WarmupCosine) and schedule.total_steps is None:
        raise unknown_length()


def run_steps(trainer: Trainer, steps_per_batch: int = 1) -> int | None:
    """Optimizer steps of a whole run, from its first to its last, also where it is resumed.

    To be asked from ``on_train_start`` on, when the trainer has its training batches. What Lightning offers for
    earlier, ``trainer.estimated_stepping_batches``, builds the loader before its position is restored, so that a
    resumed run trains on the wrong rows; and it counts batches where a module steps several times in each.

    Args:
        trainer: of the run.
        steps_per_batch: optimizer steps that the module takes in each batch, under manual optimization.

    Returns:
        None: unknown, for want of a limit or because the loader has no length.
    """
    limits = []
    if trainer.max_steps != -1:  # looked at between batches
        limits.append(math.ceil(trainer.max_steps / steps_per_batch) * steps_per_batch)
    batches = trainer.num_training_batches
    if trainer.max_epochs not in (None, -1) and math.isfinite(batches):
        planned = [c for c in trainer.callbacks if isinstance(c, GradientAccumulationScheduler)]  # type: ignore[attr-defined]
        accumulated = [
            planned[0].get_accumulate_grad_batches(epoch) if planned else trainer.accumulate_grad_batches
            for epoch in range(trainer.max_epochs)
        ]
        limits.append(sum(math.ceil(batches / count) for count in accumulated) * steps_per_batch)
    return min(limits, default=None)


def reached_limit(trainer: Trainer) -> str | None:
    """Which limit of the run a checkpoint has reached, and how to go on, as a sentence; None: none."""
    if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
        limit, value, done = "max_steps", trainer.max_steps, f"{trainer.global_step} steps"
    elif trainer.max_epochs not in (None, -1) and trainer.current_epoch >= trainer.max_epochs:
        limit, value, done = "max_epochs", trainer.max_epochs, f"{trainer.current_epoch} epochs"
    else:
        return None
    return (
        f"the checkpoint has taken {done}, --trainer.{limit} is {value}; raise it to train on, or look at the result "
        "by `uniopd validate` with the same --ckpt_path."
    )


def clip_gradient(parameters: Iterable[Parameter], limit: float | None) -> Tensor:
    """Cut the whole gradient, of all ranks where it is sharded, to a norm of ``limit``; None: leave it.

    Returns:
        Its norm before.
    """
    trained = [p for p in parameters if p.requires_grad]
    norm = torch.nn.utils.clip_grad_norm_(trained, float("inf") if limit is None else limit)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
