"""Lag of one rollout: servers write the next one while this one is trained on (``sampling.lag: 1``).

The answers of a step are then written by the weights from before the updates of the step before: the behaviour policy
is one rollout older than the student. The trainer scores them when it trains on them, so that advantages, the
proximal policy of the clipped ratio and the teachers' gaps are those of the student of now, and the truncated weights
``min(p_student / p_sampler, cap)`` correct for the distance from whoever wrote: the decoupled objective of
arXiv 2110.00641 and 2505.24298.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lit_uniopd.distributed.collectives import gather_over_ranks, max_over_ranks
from lit_uniopd.distributed.preemption import interruptible
from lit_uniopd.errors import UserError
from lit_uniopd.modules.opd.dispatch import group_ids
from lit_uniopd.modules.opd.horizon import at_horizon
from lit_uniopd.modules.opd.losses import LossArgs
from lit_uniopd.modules.optimization import run_steps
from lit_uniopd.policy.chat_template import EncodedPrompt
from lit_uniopd.sampling import Completions, SamplingArgs
from lit_uniopd.sampling.engine_vllm_server import PendingAnswers
from lit_uniopd.sampling.rollouts import begin_answers, collect_answers, rollouts_of
from lit_uniopd.types import Prompt, PromptBatch, Rollouts
from lit_uniopd.utils.seeding import derive_seed


def check_lag(sampling: SamplingArgs, loss: LossArgs) -> None:
    """Refuse the sampled loss on answers of older weights that nothing corrects for.

    Raises:
        UserError: naming the options.
    """
    if sampling.lag and loss.kind == "sampled" and loss.importance_cap is None:
        raise UserError(
            "--model.sampling.lag 1 trains on answers of weights that are a rollout old, as if the student of now had "
            "written them; set --model.loss.importance_cap 2, which corrects for that, or lag 0."
        )


@dataclass(slots=True)
class NextBatch:
    """What is written ahead."""

    begun: int
    """Optimizer steps when the servers were asked: of the weights that write."""
    step: int
    """Optimizer steps when it is trained on."""
    prompts: tuple[Prompt, ...]
    encoded: list[EncodedPrompt]
    pending: PendingAnswers


@dataclass(slots=True)
class WrittenAhead:
    """Answers that wait for their step."""

    step: int
    """Optimizer steps when they are trained on."""
    keys: list[str]
    """Of the prompts; see ``Prompt.teacher_key``."""
    answers: Completions
    seconds: float
    """That the servers have taken."""
    encoded: list[EncodedPrompt] | None = None
    """The prompts; None: those of a checkpoint, to be encoded again."""

    def state(self) -> dict[str, Any]:
        """For a checkpoint: plain data and tensors, no pickles."""
        answers = self.answers
        tensors = {"tokens": answers.tokens_BT, "mask": answers.mask_BT, "logps": answers.logps_BT}
        return {
            "step": self.step,
            "keys": self.keys,
            "seconds": self.seconds,
            "finish": answers.finish,
            **{name: tensor.cpu() for name, tensor in tensors.items()},
        }


class LaggedRollouts:
    """The next rollout, from its first request until it is trained on.

    No thread of it outlives a step: its answers are there before the last optimizer step of the rollout that is being
    trained on. Until they are, the servers have the student's own weights or, with several updates a rollout, those
    from before the first. A checkpoint holds answers that are there, since what wrote them is gone. A run that is
    stopped while they are written asks for them again if its weights are still the same, and else waits for them.

    Attributes:
        states: of all ranks, as a checkpoint holds them, until they are taken up.
        overlapped: seconds for which servers wrote while this process did something else, of the last rollout; None:
            it was not written ahead.
        seconds: that the answers of this step took to be written; None: they were not written ahead.
    """

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []
        self.overlapped: float | None = None
        self.seconds: float | None = None
        self._next: NextBatch | None = None
        self._written: WrittenAhead | None = None

    # --- a step: take the answers, have the next ones begun, wait for them before its last optimizer step ---

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around a step: one that ends with an error asks the servers nothing more."""
        self.overlapped = self.seconds = None
        try:
            yield
        finally:
            self._leave()

    def take(self, module: Any, batch: PromptBatch) -> Rollouts | None:
        """The answers to this batch, if they were written ahead. A collective call.

        Args:
            module: ``UniOPD`` in training.
            batch: of this rank.
        """
        if not module.phase.sampling.lag:
            return None
        _loader(module.trainer)  # before anything expensive
        self._load(module)
        written = self._written
        if written is None or written.step != module.global_step:
            return None
        if max_over_ranks(module, written.keys != _keys(batch.prompts)):
            rank_zero_warn(
                "The answers that were written ahead are not to the prompts of this batch, which has another size or "
                "order now; they are written anew."
            )
            return None
        self.seconds = written.seconds
        encoded = written.encoded or [module.policy.encode(prompt) for prompt in batch]
        keys = group_ids(module, len(batch))
        return rollouts_of(module.policy, batch.prompts, encoded, written.answers, keys)

    def begin(self, module: Any, begun: int) -> None:
        """Have the servers begin with the next batch by the weights of now, if there is one. A collective call.

        No rank may still wait for answers of older weights.

        Args:
            module: ``UniOPD`` in training.
            begun: optimizer steps before this rollout.
        """
        step, last = begun + module.updates_per_rollout, run_steps(module.trainer, module.updates_per_rollout)
        sampling = at_horizon(module.phase.sampling, module.horizon, step)
        if not sampling.lag or (last is not None and step >= last):
            return
        self._load(module)
        if self._written is not None and self._written.step == step:
            return
        with module.timed("rollout"):
            prompts = _loader(module.trainer).upcoming().prompts
            encoded = [module.policy.encode(prompt) for prompt in prompts]
            seed, keys = derive_seed(module.seed, 0, "rollout", step), group_ids(module, len(prompts))
            pending = begin_answers(module.policy, encoded, sampling, seed=seed, keys=keys)
        self._next = NextBatch(module.global_step, step, prompts, encoded, pending)

    def wait(self, module: Any) -> None:
        """Before an optimizer step: if it is the last of its rollout, the next rollout must be there first."""
        if self._next is not None and self._next.step == module.global_step + 1:
            with module.timed("rollout"), interruptible(module.trainer):
                self._collect()

    def _collect(self) -> None:
        """Wait for the answers that are being written."""
        if self._next is None:
            return
        ahead, waits_from = self._next, time.perf_counter()
        answers, pending = collect_answers(ahead.pending), ahead.pending
        self.overlapped = min(pending.last_at, waits_from) - pending.begun_at
        seconds = pending.last_at - pending.begun_at
        self._written = WrittenAhead(ahead.step, _keys(ahead.prompts), answers, seconds, ahead.encoded)
        self._next = None

    def _leave(self) -> None:
        if self._next is not None:
            self._next.pending.leave()
            self._next = None

    # --- stopping and resuming ---

    def freeze(self, module: Any) -> None:
        """The run stops here. Answers that the weights of now can write again are left, others are waited for."""
        if self._next is not None and self._next.begun == module.global_step:
            self._leave()
        self._collect()

    def save(self, module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the answers that are still to be trained on. A collective call."""
        states = self.states
        if not states and self._written is not None and self._written.step >= module.global_step:
            states = gather_over_ranks(module, self._written.state())
        if states:
            checkpoint["lagged"] = states

    def load(self, module: Any, checkpoint: dict[str, Any]) -> None:
        """Remember what ``save`` has added."""
        self.states = checkpoint.get("lagged", []) if module.sampling.lag else []

    def _load(self, module: Any) -> None:
        """Take up what a checkpoint holds."""
        states, self.states = self.states, []
        if states and len(states) != module.trainer.world_size:
            rank_zero_warn(
                f"The checkpoint holds a rollout that {len(states)} rank(s) have written ahead, and now there are "
                f"{module.trainer.world_size}; it is written anew."
            )
        # A stop may have come when some ranks had the next answers and others had not: all ask again.
        elif len({state["step"] for state in states}) == 1:
            state = states[module.global_rank]
            tokens_BT, mask_BT, logps_BT = (state[name].to(module.device) for name in ("tokens", "mask", "logps"))
            answers = Completions(tokens_BT, mask_BT, logps_BT, state["finish"])
            self._written = WrittenAhead(state["step"], state["keys"], answers, state["seconds"])


def _keys(prompts: Sequence[Prompt]) -> list[str]:
    return [prompt.teacher_key for prompt in prompts]


def _loader(trainer: Trainer) -> Any:
    """The training loader.

    Raises:
        UserError: if it cannot say which batch comes next.
    """
    loader = trainer.train_dataloader
    if not hasattr(loader, "upcoming"):
        raise UserError(
            f"--model.sampling.lag 1 must know the next batch, which {type(loader).__name__} does not tell; return a "
            "datamodules.loaders.ResumableLoader from train_dataloader, or set lag 0."
        )
    return loader
