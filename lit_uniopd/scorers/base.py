"""What says how good an answer is."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from transformers import AutoTokenizer

from lit_uniopd.errors import UserError, first_line
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
        raise UserError(f"PairWriter.scorer {who} reads no pictures; score these prompts by their grader.")


def load_judge(auto: Any, path: str, what: str, *, trust_remote_code: bool, dtype: str) -> tuple[Any, Any]:
    """A classifier and its tokenizer.

    Args:
        auto: transformers' class that loads it.
        path: hub id or directory.
        what: it should be, for messages.
        trust_remote_code: run Python code that comes with it.
        dtype: of its weights.

    Raises:
        UserError: if it cannot be loaded, or has no weights for its judgement, which would then be random.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
        model, found = auto.from_pretrained(
            path, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"The {what} {path} cannot be loaded ({first_line(error)}); give a hub id or a model directory."
        ) from error
    if missing := sorted(found["missing_keys"]):
        raise UserError(
            f"{path} is no {what}: it has no weights for {missing[0]}, which would be random; choose one that was "
            "trained to judge, or set trust_remote_code if it comes with code of its own."
        )
    return model, tokenizer
