"""Stopping and resuming between the updates of one rollout."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lit_uniopd.distributed.collectives import gather_over_ranks, max_over_ranks
from lit_uniopd.modules.opd.dispatch import prompt_of
from lit_uniopd.monitoring.weighted_means import WeightedMeans
from lit_uniopd.policy.policy import Policy
from lit_uniopd.teachers import encode_each
from lit_uniopd.types import Grade, Prompt, PromptBatch, Rollouts

FROM_BATCH = ("prompts", "prompt_tokens", "vision")
"""Fields of ``Rollouts`` that come from the batch when a run resumes: the loader hands it out again."""


@dataclass(slots=True)
class ScoredRollout:
    """Answers that are scored, balanced and calibrated, and what has been made of them."""

    rollouts: Rollouts
    updates: list[list[int]]
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
            "prompts": [prompt.teacher_key for prompt in prompts],
            "rollouts": {**values, "grades": [asdict(grade) for grade in self.rollouts.grades]},
            "parts": self.updates,
            "done": self.done,
            "trained": self.trained.state(),
            "random": self.random,
        }

    @classmethod
    def from_state(
        cls, state: dict[str, Any], batches: Sequence[Sequence[Prompt]], policy: Policy, device: torch.device
    ) -> "ScoredRollout":
        """What ``state`` was made of, given the same batches of all ranks: groups may have moved between them."""
        prompts = [prompt_of(group, batches) for group in state["rollouts"]["group_B"].tolist()]
        encoded = encode_each(policy, prompts)
        values = {**state["rollouts"], "grades": [Grade(**grade) for grade in state["rollouts"]["grades"]]}
        rollouts = Rollouts(
            prompts=prompts,
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


class UnfinishedRollout:
    """What a run keeps of a rollout whose updates it has not all made, should it be stopped between two of them.

    Attributes:
        states: of all ranks, as a checkpoint holds them; empty between two steps.
    """

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []
        self._current: tuple[ScoredRollout, Sequence[Prompt]] | None = None

    def keep(self, scored: ScoredRollout, prompts: Sequence[Prompt]) -> None:
        """An update begins; until ``clear``, a stopped run saves this rollout.

        Args:
            scored: the rollout.
            prompts: the batch that was answered.
        """
        scored.random = random_states(scored.rollouts.tokens_BT.device)
        self._current = scored, prompts

    def clear(self) -> None:
        """All its updates are made."""
        self._current = None

    def freeze(self, module: LightningModule) -> None:
        """The run stops here: bring together what all ranks keep. A collective call."""
        if self._current is not None:
            scored, prompts = self._current
            self.states = gather_over_ranks(module, scored.state(prompts))

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Add what is kept, if anything."""
        if self.states:
            checkpoint["rollouts"] = self.states

    def place(self) -> str:
        """Where inside of a step the run stands, for people; empty between two steps."""
        if not self.states:
            return ""
        return f" ({self.states[0]['done']} of {len(self.states[0]['parts'])} updates of its rollout made)"

    def take_up(self, module: LightningModule, batch: PromptBatch, policy: Policy) -> ScoredRollout | None:
        """The rollout of this batch, if the run was stopped when it was scored but not used up. A collective call."""
        states, self.states = self.states, []
        if not states:
            return None
        state = states[module.global_rank] if len(states) == module.trainer.world_size else None
        fits = state is not None and state["prompts"] == [prompt.teacher_key for prompt in batch]
        if state is None or max_over_ranks(module, not fits):
            rank_zero_warn(
                f"The run was stopped after {states[0]['done']} of {len(states[0]['parts'])} updates of a rollout, by "
                f"{len(states)} rank(s) with other batches than now; the answers to this batch are written anew."
            )
            return None
        batches = gather_over_ranks(module, batch.prompts)
        scored = ScoredRollout.from_state(state, batches, policy, module.device)
        set_random_states(scored.random, module.device)
        return scored
