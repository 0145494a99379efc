"""Short answers first: how many tokens a rollout may have, by the step of the run."""

from dataclasses import dataclass, replace

import torch

from lit_uniopd.errors import UserError
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.types import INCORRECT, UNKNOWN, Rollouts


@dataclass
class HorizonArgs:
    """The longest answer grows evenly to `sampling.max_new_tokens`: a teacher says most in the first part of an answer,
    and short answers are cheap (arXiv 2602.15260).
    """

    start: int
    """Tokens of the longest answer at the first optimizer step."""
    steps: int
    """Optimizer steps until it is `sampling.max_new_tokens`."""

    def __post_init__(self) -> None:
        if self.start < 1 or self.steps < 1:
            raise UserError(
                f"--model.horizon.start and steps must be at least 1, got {self.start} and {self.steps}; set "
                "--model.horizon null for answers of full length from the first step on."
            )

    def length(self, step: int, longest: int) -> int:
        """Tokens of the longest answer after so many optimizer steps; it depends on nothing else.

        Args:
            step: optimizer steps taken.
            longest: `sampling.max_new_tokens`.
        """
        return min(longest, self.start + (longest - self.start) * min(step, self.steps) // self.steps)


def at_horizon(sampling: SamplingArgs, horizon: HorizonArgs | None, step: int) -> SamplingArgs:
    """Options of the rollout of a step."""
    if horizon is None:
        return sampling
    return replace(sampling, max_new_tokens=horizon.length(step, sampling.max_new_tokens))


def forget_cut(rollouts: Rollouts, sampling: SamplingArgs, horizon: HorizonArgs | None, step: int) -> None:
    """Outcomes of answers that the horizon has cut are not known, unless they were right already.

    Args:
        rollouts: graded.
        sampling: with the full length.
        horizon: of the run.
        step: at which they were written.
    """
    if horizon is None or horizon.length(step, sampling.max_new_tokens) == sampling.max_new_tokens:
        return
    for row, (grade, finish) in enumerate(zip(rollouts.grades, rollouts.finish, strict=True)):
        if finish == "length" and grade.outcome == INCORRECT:
            rollouts.grades[row] = replace(grade, correct=None, score=0.0, reason="truncated")
    cut_B = torch.tensor([grade.outcome == UNKNOWN for grade in rollouts.grades], device=rollouts.outcome_B.device)
    rollouts.outcome_B = rollouts.outcome_B.masked_fill(cut_B, UNKNOWN)
