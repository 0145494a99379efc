"""The learning-rate schedule of the preference papers; the trainer sets its length."""

import logging
import math
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lit_uniopd.errors import UserError

log = logging.getLogger(__name__)


def unknown_length() -> UserError:
    """What to raise where a schedule cannot know its length."""
    return UserError(
        "WarmupCosine ends with the run, whose optimizer steps are not known beforehand; give --trainer.max_steps, or "
        "--model.lr_scheduler.init_args.total_steps (in Python: WarmupCosine(optimizer, total_steps=...))."
    )


class WarmupCosine(LambdaLR):
    """Linear warm-up, then half a cosine to 0, where it stays.

    Step n of w steps of warm-up has n/w of the peak, so that no step is taken at rate 0; behind them the rates are
    those of Hugging Face's ``get_cosine_schedule_with_warmup``.

    Args:
        optimizer: its learning rate is the peak.
        warmup_ratio: share of the steps that warm up.
        total_steps: length in optimizer steps. Default: what the trainer is going to take, known when training starts.

    Raises:
        ValueError: if the ratio is not in [0, 1), or there are no steps.
    """

    def __init__(self, optimizer: Optimizer, warmup_ratio: float = 0.1, total_steps: int | None = None) -> None:
        if not 0 <= warmup_ratio < 1:
            raise ValueError(f"warmup_ratio is {warmup_ratio}; it must be at least 0 and below 1.")
        if total_steps is not None and total_steps < 1:
            raise ValueError(f"total_steps is {total_steps}; it must be at least 1.")
        self.warmup_ratio = warmup_ratio
        self.total_steps = total_steps
        self._saved: dict[str, Any] = {}
        super().__init__(optimizer, self.factor)

    def factor(self, step: int) -> float:
        """Multiplier of the peak learning rate for the step that comes after ``step`` others."""
        if self.total_steps is None and step == 0:  # asked for by torch, before `begin`
            return 0.0 if self.warmup_ratio > 0 else 1.0
        if self.total_steps is None:
            raise RuntimeError("WarmupCosine was stepped before its total_steps was set.")
        warmup = math.ceil(self.warmup_ratio * self.total_steps)
        if step < warmup:
            return (step + 1) / warmup
        if step >= self.total_steps:
            return 0.0
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (self.total_steps - warmup)))

    def begin(self, run_steps: int | None) -> None:
        """Take over the length of the run if none was given, and set the rate of the step that comes next.

        Args:
            run_steps: optimizer steps of the whole run, those before a checkpoint included; None: unknown.

        Raises:
            UserError: if there is no length.
        """
        given = self.total_steps is not None
        if self.total_steps is None:
            self.total_steps = run_steps
        if self.total_steps is None:
            raise unknown_length()
        if given and run_steps is not None and self.total_steps < run_steps:
            rank_zero_warn(
                f"WarmupCosine reaches 0 after total_steps {self.total_steps}, and the run takes {run_steps}: the last "
                f"{run_steps - self.total_steps} train nothing; leave total_steps out, or lower --trainer.max_steps."
            )
        changed = [
            f"{name} was {value}, is {getattr(self, name)}"
            for name, value in self._saved.items()
            if value != getattr(self, name)
        ]
        if changed:
            rank_zero_warn(
                f"The learning rate goes on at step {self.last_epoch} of this run's schedule, which is not the "
                f"checkpoint's ({'; '.join(changed)}); to resume exactly, give the options of its run."
            )
        for group, peak in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = peak * self.factor(self.last_epoch)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
        log.info("The learning rate warms up and falls to 0 within %d optimizer steps.", self.total_steps)

    def state_dict(self) -> dict[str, Any]:
        return {key: value for key, value in super().state_dict().items() if key != "_saved"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the position from a checkpoint; the length is that of this run, which may have been prolonged."""
        lengths = {name: getattr(self, name) for name in ("warmup_ratio", "total_steps")}
        self._saved = {name: state_dict.get(name) for name in lengths}
        super().load_state_dict({**state_dict, **lengths})
