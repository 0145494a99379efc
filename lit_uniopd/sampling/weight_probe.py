"""Whether an engine has the student's weights: both read the same tokens, and their log-probs are compared."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lit_uniopd.errors import UserError
from lit_uniopd.policy.backbone import head_of

LENGTH = 64
"""Tokens that are compared at most."""


class WeightProbe:
    """Tokens of a prompt, and what an engine and the student said of them when weights were last sent.

    Args:
        engine_logps: token ids to the log-probs of all but the first, at temperature 1, under the engine.
        name: of the engine, as a message begins with it.
        option: the option that limits the distance, for messages.
    """

    def __init__(self, engine_logps: Callable[[list[int]], Tensor], name: str, option: str) -> None:
        self.engine_logps, self.name, self.option = engine_logps, name, option
        self.tokens: list[int] = []
        self.before: tuple[Tensor, Tensor] | None = None

    def check(self, model: nn.Module, prompt: Sequence[int], limit: float | None) -> None:
        """Compare after weights were sent.

        An engine that says exactly what it said before, of a student that has changed by more than the two differed,
        has kept the old weights; a smaller change may be lost in an engine that computes in 16 bits. That it has other
        weights is seen by the distance.

        Args:
            model: whole, in eval mode.
            prompt: gives the tokens, the first time.
            limit: nats by which log-probs may differ on average; None: any.

        Raises:
            UserError: if the engine has other weights.
        """
        self.tokens = self.tokens or list(prompt[:LENGTH])
        if len(self.tokens) < 2:  # nothing follows the first token
            self.tokens = []
            return
        engine_logps, student_logps = self.engine_logps(self.tokens), _student_logps(model, self.tokens)
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


def _distance(first: Tensor, second: Tensor) -> float:
    """In nats, on average over the tokens."""
    return float((first - second).abs().mean())


@torch.no_grad()
def _student_logps(model: nn.Module, tokens: list[int]) -> Tensor:
    ids_1T = torch.tensor([tokens], device=head_of(model).weight_VH.device)
    logps_TV = model(input_ids=ids_1T, use_cache=False).logits[0, :-1].float().log_softmax(dim=-1)
    return logps_TV.gather(1, ids_1T[0, 1:, None])[:, 0].cpu()
