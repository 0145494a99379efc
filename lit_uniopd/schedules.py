"""The learning-rate schedule of the preference papers; the trainer sets its length."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosine(LambdaLR):
    """Linear warm-up from 0, then half a cosine to 0.

    Args:
        optimizer: its learning rate is the peak.
        warmup_ratio: share of the steps that warm up.
        total_steps: length in optimizer steps. Default: what the trainer is going to take.

    Raises:
        ValueError: if the ratio is not in [0, 1).
    """

    def __init__(self, optimizer: Optimizer, warmup_ratio: float = 0.1, total_steps: int | None = None) -> None:
        if not 0 <= warmup_ratio < 1:
            raise ValueError(f"warmup_ratio is {warmup_ratio}; it must be at least 0 and below 1.")
        self.warmup_ratio = warmup_ratio
        self.total_steps = total_steps
        super().__init__(optimizer, self.factor)

    def factor(self, step: int) -> float:
        """Multiplier of the peak learning rate; that of step 0 does not need the length."""
        if step == 0:
            return 0.0 if self.warmup_ratio > 0 else 1.0
        if self.total_steps is None:
            raise RuntimeError("WarmupCosine was stepped before its total_steps was set.")
        warmup = math.ceil(self.warmup_ratio * self.total_steps)
        if step < warmup:
            return step / warmup
        progress = (step - warmup) / max(1, self.total_steps - warmup)
        return max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))
