"""Settings of optimizer, schedule and trainer with which a run would do something else than they say."""

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch.nn import Parameter

from lit_uniopd.modules.lossy_sources import source_objections
from lit_uniopd.modules.optimization import new_optimizer, new_schedule
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.chat_template import AnswerEnd
from lit_uniopd.policy.template_options import unread_options
from lit_uniopd.schedules import WarmupCosine
from lit_uniopd.utils.objections import Objection
from lit_uniopd.utils.trainer_data import TrainerData

TRIED = 10_000
"""Steps of a schedule that are tried beforehand."""
NOTHING = 0.01
"""Share of the peak rate below which a schedule counts as ended."""


def run_objections(module: Any, processor: Any) -> Iterator[Objection]:
    """What speaks against a fit of any objective.

    Args:
        module: a ``PolicyModule`` with its trainer.
        processor: of its policy.
    """
    trainer, args, flag = module.trainer, module.policy_args, module.policy_flag
    steps = None if trainer.max_steps == -1 else trainer.max_steps
    yield from optimizer_objections(module.make_optimizer, module.make_lr_scheduler, steps)
    if module.gradient_clip is not None and module.gradient_clip <= 0:
        yield Objection(
            "settings",
            f"--model.gradient_clip {module.gradient_clip:g} would cut every gradient to nothing; set it to null for "
            "no clipping.",
            refused=True,
        )
    yield from precision_objections(trainer, args, flag, clips_by_hand=not module.automatic_optimization)
    yield from policy_objections(args, flag, processor)
    yield from trainer_objections(trainer, module.steps_per_batch)
    yield from source_objections(module.trainer_data.reports)


def end_objections(end: AnswerEnd, flag: str) -> Iterator[Objection]:
    """Answers to learn from that nothing ends.

    Args:
        end: of answers.
        flag: the option that the policy came from.
    """
    if end.token is None:
        yield Objection(
            "ends",
            "The tokenizer has no end-of-sequence token and no chat template that ends a turn: nothing teaches answers "
            f"to end; name a tokenizer that has one by --{flag}.tokenizer.",
        )


def optimizer_objections(
    make_optimizer: OptimizerCallable, make_schedule: LRSchedulerCallable | None, steps: int | None
) -> Iterator[Objection]:
    """A rate of 0, and schedules that end before the run or begin anew.

    Args:
        make_optimizer: of `--model.optimizer`.
        make_schedule: of `--model.lr_scheduler`; None: the rate is constant.
        steps: optimizer steps of the run; None: unknown before it starts.
    """
    weight = Parameter(torch.zeros(1))
    optimizer = new_optimizer(make_optimizer, [weight])
    if all(group["lr"] == 0 for group in optimizer.param_groups):
        yield Objection("settings", "With --model.optimizer.lr 0 nothing is learned; set it to the rate that you mean.")
        return
    schedule = None if make_schedule is None else new_schedule(make_schedule, optimizer)
    if schedule is None or steps is None or isinstance(schedule, WarmupCosine):  # which looks after itself
        return
    name, rates = f"--model.lr_scheduler {type(schedule).__name__}", list[float]()
    try:
        with warnings.catch_warnings(action="ignore"):
            for _ in range(min(steps, TRIED)):
                rates.append(max(group["lr"] for group in optimizer.param_groups))
                optimizer.step()
                schedule.step()
    except ValueError:  # OneCycleLR behind its end
        yield Objection(
            "settings",
            f"{name} ends after {len(rates) - 1} steps, and the run takes {steps}; set its total_steps to that, or "
            "lower --trainer.max_steps.",
            refused=True,
        )
        return
    if "Restarts" in name or "Cyclic" in name:
        return
    small = [rate < NOTHING * max(rates) for rate in rates]
    peak = next(step for step, rate in enumerate(rates) if rate >= (1 - NOTHING) * max(rates))
    end = next((step for step in range(peak, len(rates)) if small[step]), len(rates))
    if not all(small[end:]):
        yield Objection(
            "settings",
            f"{name} falls to 0 after {end} optimizer steps and rises again, in a run of {steps}; give it the run's "
            "length, or take lit_uniopd.schedules.WarmupCosine, which stays there.",
        )
    elif end < len(rates) - max(1, len(rates) // 10):
        yield Objection(
            "settings",
            f"{name} falls to 0 after {end} optimizer steps, so the last {steps - end} train nothing; give it the "
            "run's length, or lower --trainer.max_steps.",
        )


def precision_objections(trainer: Trainer, args: PolicyArgs, flag: str, *, clips_by_hand: bool) -> Iterator[Objection]:
    """Types in which small steps vanish, or gradients are cut at the wrong place.

    Args:
        trainer: its precision.
        args: of the model that is trained.
        flag: the option that ``args`` came from.
        clips_by_hand: whether the module itself cuts gradients, which a loss scale would have multiplied.
    """
    precision = str(trainer.precision)
    if clips_by_hand and getattr(trainer.precision_plugin, "scaler", None) is not None:
        yield Objection(
            "device",
            f"--trainer.precision {precision} multiplies the loss, and --model.gradient_clip would cut gradients that "
            "are thousands of times too large; set --trainer.precision bf16-mixed.",
            refused=True,
        )
    if args.lora is not None:
        return
    if precision in ("bf16-true", "16-true"):
        yield Objection(
            "device",
            f"--trainer.precision {precision} loses small steps in the weights; set --trainer.precision bf16-mixed, or "
            f"train adapters by --{flag}.lora.rank.",
        )
    elif args.dtype in ("bfloat16", "float16"):
        yield Objection(
            "device",
            f"--{flag}.dtype {args.dtype} loses small steps in weights that are trained in full; leave it auto, or "
            f"train adapters by --{flag}.lora.rank.",
        )


def policy_objections(args: PolicyArgs, flag: str, processor: Any) -> Iterator[Objection]:
    """Options of a model that do nothing."""
    if args.lora is not None and args.lora.alpha <= 0:
        yield Objection(
            "settings",
            f"--{flag}.lora.alpha {args.lora.alpha} multiplies the adapters by {args.lora.alpha / args.lora.rank:g}, "
            "so nothing is learned by them; set it to twice the rank.",
            refused=True,
        )
    yield from template_objections(processor, args.chat_template_kwargs, flag)


def template_objections(processor: Any, options: Mapping[str, Any], flag: str) -> Iterator[Objection]:
    """Options that a chat template never reads."""
    unread = unread_options(processor, dict(options))
    if unread:
        yield Objection(
            f"template {flag.removeprefix('model.').replace('teachers.', 'teacher ')}",
            f"The chat template never reads {', '.join(unread)}, which is set; mend or remove it in "
            f"--{flag}.chat_template_kwargs.",
        )


def trainer_objections(trainer: Trainer, steps_per_batch: int) -> Iterator[Objection]:
    """Batches and validations that do not come as they were asked for.

    Args:
        trainer: with its datamodule.
        steps_per_batch: optimizer steps that the module takes in each batch, under manual optimization.
    """
    data, batches = TrainerData(trainer), planned_batches(trainer, steps_per_batch)
    every = trainer.val_check_interval
    later = any(getattr(callback, "validates_after", False) for callback in data.callbacks)
    heldout = bool(data.prompts("val") or data.val_pairs) and bool(trainer.limit_val_batches) and not later
    per_epoch = trainer.check_val_every_n_epoch
    if heldout and batches is not None and per_epoch is None and every > batches:
        yield Objection(
            "validation",
            f"--trainer.val_check_interval {every} batches is more than the {batches} of the run, so it is never "
            "validated while it trains; lower it.",
        )
    epochs = trainer.max_epochs
    if heldout and per_epoch is not None and epochs not in (None, -1) and per_epoch > epochs:
        yield Objection(
            "validation",
            f"--trainer.check_val_every_n_epoch {per_epoch} is more than the {epochs} epochs of the run, so it is "
            "never validated while it trains; lower it.",
        )
    accumulated = trainer.accumulate_grad_batches
    pairs = len(data.train_pairs) or (0 if steps_per_batch > 1 else len(data.prompts("train")))
    wanted = accumulated * data.batch_size * trainer.world_size
    if accumulated > 1 and 0 < pairs < wanted:
        yield Objection(
            "settings",
            f"A step is to take {wanted} rows (--data.batch_size times accumulate_grad_batches and devices), and a "
            f"pass over the data has {pairs}: steps are of those; lower --trainer.accumulate_grad_batches.",
        )


def planned_batches(trainer: Trainer, steps_per_batch: int) -> int | None:
    """Training batches of a run as far as its limits say; None: as many as the data have."""
    limits = []
    if trainer.max_steps != -1:
        limits.append(math.ceil(trainer.max_steps / steps_per_batch) * trainer.accumulate_grad_batches)
    if isinstance(trainer.limit_train_batches, int) and trainer.max_epochs not in (None, -1):
        limits.append(trainer.limit_train_batches * trainer.max_epochs)
    return min(limits, default=None)
