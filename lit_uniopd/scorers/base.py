"""What says how good an answer is."""

from abc import ABC, abstractmethod

import torch

from lit_uniopd.errors import UserError
from lit_uniopd.types import Rollouts


class Scorer(ABC):
    """One number for each answer, the higher the better."""

    name: str
    """Tells its scores from those of others."""

    @abstractmethod
    def __call__(self, rollouts: Rollouts, device: torch.device) -> list[float]:
        """Scores of all answers; NaN where there is none."""


class GraderScore(Scorer):
    """The grader's mark, 0 to 1; NaN where it could not decide."""

    name = "grader"

    def __call__(self, rollouts: Rollouts, device: torch.device) -> list[float]:
        return [float("nan") if grade.correct is None else grade.score for grade in rollouts.grades]


def refuse_pictures(rollouts: Rollouts, who: str) -> None:
    """Stop a scorer that would judge answers without what they are about.

    Raises:
        UserError: if a prompt has pictures.
    """
    if any(prompt.images for prompt in rollouts.prompts):
        raise UserError(f"{who} reads no pictures; score these prompts by their grader.")
