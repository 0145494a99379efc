"""Controls of online balancing: as many answers left out, chosen otherwise. Named in leave_out.yaml."""

from typing import Literal

import torch
from lightning import Callback, LightningModule, Trainer

from lit_uniopd.functional.balance import balance_outcomes
from lit_uniopd.types import CORRECT, INCORRECT, Rollouts
from lit_uniopd.utils.seeding import derive_seed, run_seed


class LeaveOut(Callback):
    """Leave out of each rollout as many answers as online balancing 1:1 would, of another choice; on one device.

    Args:
        of: any: at random; correct, incorrect: at random among these, as far as there are enough.
    """

    needs_outcomes = True

    def __init__(self, of: Literal["any", "correct", "incorrect"]) -> None:
        self.of = of

    def on_rollouts_scored(self, trainer: Trainer, pl_module: LightningModule, rollouts: Rollouts) -> None:
        """Set ``keep_B`` of the chosen answers to False."""
        outcome_B, group_B = rollouts.outcome_B.cpu(), rollouts.group_B.cpu()
        count = int((~balance_outcomes(outcome_B, group_B)).sum())
        wanted = {"correct": [CORRECT], "incorrect": [INCORRECT], "any": [CORRECT, INCORRECT]}[self.of]
        candidates = torch.isin(outcome_B, torch.tensor(wanted)).nonzero().flatten()
        generator = torch.Generator().manual_seed(derive_seed("leave out", run_seed(), trainer.global_step))
        chosen = candidates[torch.randperm(len(candidates), generator=generator)[:count]]
        rollouts.keep_B[chosen.to(rollouts.keep_B.device)] = False
