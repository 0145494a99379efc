"""Stopping and resuming between the updates of one rollout."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_uniopd.distributed.collectives import gather_over_ranks, max_over_ranks
from lit_uniopd.modules.base import PolicyModule
from lit_uniopd.modules.opd.dispatch import prompt_of
from lit_uniopd.monitoring.weighted_means import WeightedMeans
from lit_uniopd.policy.policy import Policy
from lit_uniopd.teachers.pool import encode_each
from lit_uniopd.types import Grade, Prompt, PromptBatch, Rollouts

FROM_BATCH = ("prompts", "prompt_tokens", "vision")
"""Fields of ``Rollouts`` that come from the batch when a run resumes: the loader hands it out again."""


@dataclass(slots=True)
class ScoredRollout:
    """Answers that are scored, balanced and calibrated, and what has been made of them."""

    rollouts: Rollouts
    parts: list[list[int]]
    """Rows of each update."""
    done: int = 0
    """Updates that were made."""
    trained: WeightedMeans = field(default_factory=WeightedMeans)
    """Statistics of those."""
    random: list[Tensor] = field(default_factory=list)
    """Torch's random states as the next update begins."""

    def state(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """For a checkpoint: plain data and tensors, no pickles.

        Args:
            prompts: the batch of this rank.
        """
        values = {f.name: getattr(self.rollouts, f.name) for f in fields(Rollouts) if f.name not in FROM_BATCH}
        values = {name: v.cpu() if isinstance(v, Tensor) else v for name, v in values.items()}
        return {
            "prompts": [prompt.key for prompt in prompts],
            "rollouts": {**values, "grades": [asdict(grade) for grade in self.rollouts.grades]},
            "parts": self.parts,
            "done": self.done,
            "trained": self.trained.state(),
            "random": self.random,
        }

    @classmethod
    def from_state(
        cls, state: dict[str, Any], batches: Sequence[Sequence[Prompt]], policy: Policy, device: torch.device
    ) -> "ScoredRollout":
        """What ``state`` was made of, given the same batches of all ranks: groups may have moved between them."""
        answered = [prompt_of(group, batches) for group in state["rollouts"]["group_B"].tolist()]
        encoded = encode_each(policy, answered)
        values = {**state["rollouts"], "grades": [Grade(**grade) for grade in state["rollouts"]["grades"]]}
        rollouts = Rollouts(
            prompts=answered,
            prompt_tokens=[prompt.tokens for prompt in encoded],
            vision=[prompt.vision for prompt in encoded],
            **values,
        )
        trained = WeightedMeans.from_state(state["trained"])
        return cls(rollouts.to(device), state["parts"], state["done"], trained, state["random"])


def random_states(device: torch.device) -> list[Tensor]:
    """Torch's random state, and that of the GPU where there is one."""
    return [torch.get_rng_state()] + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])


def set_random_states(states: Sequence[Tensor], device: torch.device) -> None:
    """Go on drawing where ``random_states`` was called."""
    torch.set_rng_state(states[0].cpu())
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1].cpu(), device)


class ResumingModule(PolicyModule):
    """Base of what makes several updates of a rollout: a checkpoint written in between holds what is left of it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.unfinished: tuple[ScoredRollout, Sequence[Prompt]] | None = None
        self.rollouts: Rollouts | None = None
        """What the step trains on that is under way or has just ended, also in a resumed run, where no hook saw it."""
        self.left_over: list[dict[str, Any]] = []

    def keep_in_case(self, scored: ScoredRollout, prompts: Sequence[Prompt]) -> None:
        """An update begins; until ``unfinished`` is set to None, a stopped run saves this rollout.

        Args:
            scored: the rollout.
            prompts: the batch that was answered.
        """
        scored.random = random_states(self.device)
        self.unfinished = scored, prompts
        self.rollouts = scored.rollouts

    def resumed(self, batch: PromptBatch) -> ScoredRollout | None:
        """The rollout of this batch, if the run was stopped when it was scored but not used up."""
        self.rollouts = None  # that of the step before
        states, self.left_over = self.left_over, []
        if not states:
            return None
        state = states[self.global_rank] if len(states) == self.trainer.world_size else None
        fits = state is not None and state["prompts"] == [prompt.key for prompt in batch]
        if state is None or max_over_ranks(self, not fits):
            rank_zero_warn(
                f"The run was stopped after {states[0]['done']} of {len(states[0]['parts'])} updates of a rollout, by "
                f"{len(states)} rank(s) with other batches than now; the answers to this batch are written anew."
            )
            return None
        batches = gather_over_ranks(self, batch.prompts)
        scored = ScoredRollout.from_state(state, batches, self.policy, self.device)
        set_random_states(scored.random, self.device)
        return scored

    def on_stop(self) -> None:
        super().on_stop()
        if self.unfinished is not None:
            scored, prompts = self.unfinished
            self.left_over = gather_over_ranks(self, scored.state(prompts))

    def place_in_step(self) -> str:
        if not self.left_over:
            return ""
        return f" ({self.left_over[0]['done']} of {len(self.left_over[0]['parts'])} updates of its rollout made)"

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.left_over:
            checkpoint["rollouts"] = self.left_over

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.left_over = checkpoint.get("rollouts", [])
