"""Whether an engine has the student's weights: both read the same tokens, and their log-probs are compared."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lit_uniopd.errors import UserError
from lit_uniopd.policy.backbone import body_of, head_of
from lit_uniopd.policy.chat_template import EncodedPrompt
from lit_uniopd.policy.multimodal import grid_positions, image_token_ids, vision_inputs

LENGTH = 64
"""Tokens that are compared at most."""


class WeightProbe:
    """Tokens of a prompt, and what an engine and the student said of them when weights were last sent.

    Args:
        engine_logps: a prompt to the log-probs of all of its tokens but the first, at temperature 1, under the engine.
        name: of the engine, as a message begins with it.
        option: the option that limits the distance, for messages.
    """

    def __init__(self, engine_logps: Callable[[EncodedPrompt], Tensor], name: str, option: str) -> None:
        self.engine_logps, self.name, self.option = engine_logps, name, option
        self.prompt = EncodedPrompt([])
        self.before: tuple[Tensor, Tensor] | None = None

    def check(self, model: nn.Module, prompt: EncodedPrompt, limit: float | None) -> None:
        """Compare after weights were sent.

        An engine that says exactly what it said before, of a student that has changed by more than the two differed,
        has kept the old weights; a smaller change may be lost in an engine that computes in 16 bits. That it has other
        weights is seen by the distance.

        Args:
            model: whole, in eval mode.
            prompt: gives the tokens, the first time, and once more when the first one with pictures comes, whose
                tokens behind the pictures show the weights that read them.
            limit: nats by which log-probs may differ on average; None: any.

        Raises:
            UserError: if the engine has other weights.
        """
        if not self.prompt.tokens or (prompt.vision and not self.prompt.vision):
            self.prompt = prompt if prompt.vision else EncodedPrompt(prompt.tokens[:LENGTH])
            self.before = None
        if not self.prompt.tokens:
            return
        places = _compared(model, self.prompt)
        student_logps = _student_logps(model, self.prompt, places)  # first: other ranks may take part in it
        if not places:  # nothing follows the first token
            self.prompt = EncodedPrompt([])
            return
        engine_logps = self.engine_logps(self.prompt)[[place - 1 for place in places]]
        if self.before is not None:
            engine_before, student_before = self.before
            change, noise = _distance(student_logps, student_before), _distance(engine_before, student_before)
            if torch.equal(engine_logps, engine_before) and change > noise:
                raise UserError(
                    f"{self.name} kept old weights: the student's log-probs have changed and the engine's have not; "
                    "set sampling.engine=loop, or start it again in the way that docs/uni_opd.md shows."
                )
        drift = _distance(engine_logps, student_logps)
        if limit is not None and not drift <= limit:
            raise UserError(
                f"{self.name} is {drift:.2f} nats from the student on average after its weights were sent, more than "
                f"{self.option} {limit:g}: it has other weights, or runs this model otherwise; set "
                "sampling.engine=loop, or raise the limit."
            )
        self.before = engine_logps, student_logps


def _compared(model: nn.Module, prompt: EncodedPrompt) -> list[int]:
    """Places of the last tokens that have something before them, those of pictures left out."""
    banned = image_token_ids(model)
    return [place for place, token in enumerate(prompt.tokens) if place and token not in banned][-LENGTH:]


def _distance(first: Tensor, second: Tensor) -> float:
    """In nats, on average over the tokens."""
    return float((first - second).abs().mean())


@torch.no_grad()
def _student_logps(model: nn.Module, prompt: EncodedPrompt, places: list[int]) -> Tensor:
    """Log-probs of the tokens at these places; logits of the others, which long prompts have many of, are not made."""
    ids_1T = torch.tensor([prompt.tokens], device=head_of(model).weight_VH.device)
    inputs: dict[str, Any] = vision_inputs(model, ids_1T, [prompt.vision] if prompt.vision else [])
    grid = grid_positions(model, ids_1T, torch.ones_like(ids_1T), inputs)
    if grid is not None:
        inputs["position_ids"] = grid[0]
    hidden_TH = body_of(model)(input_ids=ids_1T, use_cache=False, **inputs).last_hidden_state[0]
    logps_NV = head_of(model).logits(hidden_TH[[place - 1 for place in places]]).log_softmax(dim=-1)
    return logps_NV.gather(1, ids_1T[0, places, None])[:, 0].cpu()
