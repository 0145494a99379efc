"""Which prompts the engines in this process answer at the same time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from lit_uniopd.policy.backbone import head_of, unwrap
from lit_uniopd.policy.multimodal import Vision, image_token_ids
from lit_uniopd.policy.shared_prefix import reads_alike
from lit_uniopd.sampling.request import GenerationRequest

Together = Literal["any", "equal lengths", "one"]
LogitsOf = Callable[[nn.Module, list[list[int]], int], Tensor]
"""``(model, prompts, pad_id) -> logits [P, ..., V]`` of the first tokens of greedy answers."""


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """The prompts of one batch."""

    prompt_tokens: list[list[int]]
    vision: list[Vision]
    answers: int
    """How many to each of the prompts, in this batch."""
    rows_R: Tensor
    """Rows of the request, in the order of the prompts."""


def prompt_groups(request: GenerationRequest, logits_of: LogitsOf) -> Iterator[PromptGroup]:
    """At most ``max_rows`` rows at a time; long prompts first, to keep padding low.

    Prompts of one length only go together, or one row at a time, where the model cannot do better.

    Args:
        request: the prompts.
        logits_of: how the engine answers, for `readable_together`.
    """
    lengths = [len(tokens) for tokens in request.prompt_tokens]
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    together: Together = "any"
    if request.rows > 1:
        together = readable_together(request.model, request.pad_id, logits_of)
    runs = [order] if together == "any" else [list(run) for _, run in groupby(order, key=lambda i: lengths[i])]
    max_rows = 1 if together == "one" else request.args.max_rows
    prompts_at_once = max(1, max_rows // request.answers)
    for indices in (run[i : i + prompts_at_once] for run in runs for i in range(0, len(run), prompts_at_once)):
        for first in range(0, request.answers, max_rows):
            numbers = range(first, min(request.answers, first + max_rows))
            rows = [i * request.answers + j for i in indices for j in numbers]
            yield PromptGroup(
                prompt_tokens=[list(request.prompt_tokens[i]) for i in indices],
                vision=[request.vision[i] for i in indices],
                answers=len(numbers),
                rows_R=torch.tensor(rows, device=request.device),
            )


_readable_together: WeakKeyDictionary[nn.Module, dict[LogitsOf, Together]] = WeakKeyDictionary()


def readable_together(model: nn.Module, pad_id: int, logits_of: LogitsOf) -> Together:
    """Which prompts a model answers together as it answers each alone.

    Recurrent models may take padding for text, and those with a cache of their own may mix up its rows. No config says
    so: it is tried once for each model and engine.

    Args:
        model: in eval mode.
        pad_id: token that prompts are padded with.
        logits_of: how the engine answers.
    """
    base = unwrap(model)
    tried = _readable_together.setdefault(base, {})
    if logits_of not in tried:
        weight_VH, banned = head_of(model).weight_VH, image_token_ids(model)
        a, b, c = [token for token in range(len(banned) + 4) if token not in (*banned, pad_id)][:3]
        prompt, longer, equal = [b, a, c], [a, b, c, c, b, a, b, c], [a, b, c]
        # Under autocast, rounding would hide a difference.
        with torch.autocast(weight_VH.device.type, enabled=False):
            alone = logits_of(model, [prompt], pad_id)
            alike = [
                reads_alike(logits_of(model, [other, prompt], pad_id)[1:], alone, weight_VH.dtype)
                for other in (longer, equal)
            ]
        tried[logits_of] = "any" if alike[0] else "equal lengths" if alike[1] else "one"
        if not alike[0]:
            name, limit = type(base).__name__, "prompts of one length" if alike[1] else "one row"
            rank_zero_info(f"{name} reads padding or other rows: it answers {limit} at a time.")
    return tried[logits_of]
