"""Which prompts the engines in this process answer at the same time."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_uniopd.policy.multimodal import Vision
from lit_uniopd.sampling.request import GenerationRequest


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """The prompts of one batch."""

    prompt_tokens: list[list[int]]
    vision: list[Vision]
    answers: int
    """How many to each of the prompts, in this batch."""
    rows_R: Tensor
    """Rows of the request, in the order of the prompts."""


def prompt_groups(request: GenerationRequest) -> Iterator[PromptGroup]:
    """At most ``max_rows`` rows at a time; long prompts first, to keep padding low."""
    max_rows = request.args.max_rows
    order = sorted(range(len(request.prompt_tokens)), key=lambda i: -len(request.prompt_tokens[i]))
    prompts_at_once = max(1, max_rows // request.answers)
    for start in range(0, len(order), prompts_at_once):
        indices = order[start : start + prompts_at_once]
        for first in range(0, request.answers, max_rows):
            numbers = range(first, min(request.answers, first + max_rows))
            rows = [i * request.answers + j for i in indices for j in numbers]
            yield PromptGroup(
                prompt_tokens=[list(request.prompt_tokens[i]) for i in indices],
                vision=[request.vision[i] for i in indices],
                answers=len(numbers),
                rows_R=torch.tensor(rows, device=request.device),
            )
