"""What every scorer of answers has in common."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from transformers import AutoTokenizer

from lit_uniopd.errors import UserError, first_line
from lit_uniopd.types import Rollouts


class Scorer(ABC):
    """One number for each answer, the higher the better."""

    name: str
    """Tells its scores from those of other scorers."""

    @abstractmethod
    def __call__(self, rollouts: Rollouts, device: torch.device) -> list[float]:
        """Scores of all answers; NaN where there is none."""


class GraderScore(Scorer):
    """The grader's mark, 0 to 1; NaN where it could not decide."""

    name = "grader"

    def __call__(self, rollouts: Rollouts, device: torch.device) -> list[float]:
        return [float("nan") if grade.correct is None else grade.score for grade in rollouts.grades]


def refuse_pictures(rollouts: Rollouts, scorer: str) -> None:
    """Refuse prompts with pictures: the scorer would judge answers without seeing what they are about.

    Raises:
        UserError: if a prompt has pictures.
    """
    if any(prompt.images for prompt in rollouts.prompts):
        raise UserError(f"PairWriter.scorer {scorer} reads no pictures; score these prompts by their grader.")


def load_judge(auto: Any, path: str, kind: str, *, trust_remote_code: bool, dtype: str) -> tuple[Any, Any]:
    """A classifier and its tokenizer.

    Args:
        auto: transformers' class that loads it.
        path: hub id or directory.
        kind: what it should be, for messages.
        trust_remote_code: run Python code that comes with it.
        dtype: of its weights.

    Raises:
        UserError: if it cannot be loaded, or has no weights for its head, whose scores would be random.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
        model, loading_info = auto.from_pretrained(
            path, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"The {kind} {path} cannot be loaded ({first_line(error)}); give a hub id or a model directory."
        ) from error
    if missing := sorted(loading_info["missing_keys"]):
        raise UserError(
            f"{path} is no {kind}: it has no weights for {missing[0]}, which would be random; choose one that was "
            "trained to judge, or set trust_remote_code if it comes with code of its own."
        )
    return model, tokenizer
