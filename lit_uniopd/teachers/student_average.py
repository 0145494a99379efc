"""An exponential moving average of the student's trained weights (mean teachers, arXiv 1703.01780)."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lit_uniopd.distributed.sharded_checkpoint import AVERAGES
from lit_uniopd.distributed.sharding import reshard, sharded_like
from lit_uniopd.errors import UserError
from lit_uniopd.policy.policy import Policy

log = logging.getLogger(__name__)


class StudentAverage:
    """``average = decay * average + (1 - decay) * student``, where it is held: on shards, under LoRA of the adapters.

    Args:
        student: being trained; sharded already if it is to be.
        decay: in [0, 1].
        copy: frozen copy of the student that holds the average; None: it is held beside the student's own modules, and
            put into them while it answers (``in_place``).
    """

    def __init__(self, student: Policy, decay: float, copy: Policy | None = None) -> None:
        self.student = student
        self.decay = decay
        reshard(student)  # parameters are shards, and the same objects to the end of the run
        self.trained = {name: p for name, p in student.named_parameters() if p.requires_grad}
        self.copy = copy
        copied = {} if copy is None else dict(copy.named_parameters())
        # Those of a copy are its parameters themselves, which move with it.
        self.held: dict[str, Tensor] = {
            name: copied[name] if copied else p.detach().clone() for name, p in self.trained.items()
        }

    @torch.no_grad()
    def follow(self) -> None:
        """Take in the student after an optimizer step."""
        for name, parameter in self.trained.items():
            _local(self.held[name]).lerp_(_local(parameter), 1 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The average in the student's own modules, which then are the teacher; every weight comes back bit for bit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        reshard(self.student)  # what a forward pass has left gathered would stay as it was
        for name, parameter in self.trained.items():
            mine, held = _local(parameter), _local(self.held[name])
            before = mine.clone()
            mine.copy_(held)
            held.copy_(before)

    def to(self, device: torch.device) -> None:
        """Hold it where the student computes; shards are there, and a copy moves by itself."""
        if self.copy is None:
            self.held = {n: t if isinstance(t, DTensor) else t.to(device) for n, t in self.held.items()}

    def state(self) -> Mapping[str, Tensor]:
        """For a checkpoint; shards where the student's are."""
        return {name: held.detach() for name, held in self.held.items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor], flag: str) -> None:
        """Go on from a checkpoint.

        Args:
            state: as it was saved, in shards like these or in full.
            flag: of the teacher, for the message.

        Raises:
            UserError: if it is of other weights.
        """
        if {n: t.shape for n, t in state.items()} != {n: t.shape for n, t in self.held.items()}:
            raise UserError(
                f"--ckpt_path holds another average for --{flag} than of this student's trained weights; give the "
                "model and the lora settings with which it was made."
            )
        for name, held in self.held.items():
            _local(held).copy_(_local(sharded_like(state[name], held)))


def save_averages(averages: Mapping[str, StudentAverage], checkpoint: dict[str, Any]) -> None:
    """Add the averages of all teachers to a checkpoint, under their names."""
    if averages:
        checkpoint[AVERAGES] = {name: dict(average.state()) for name, average in averages.items()}


def load_averages(averages: Mapping[str, StudentAverage], checkpoint: Mapping[str, Any]) -> None:
    """Go on with the averages of a checkpoint.

    Raises:
        UserError: naming the teacher, if it has none of it.
    """
    saved = checkpoint.get(AVERAGES, {})
    for name, average in averages.items():
        if name not in saved:
            raise UserError(
                f"--ckpt_path holds no average for --model.teachers.{name}.weights student_average; give the teachers "
                "with which it was made, or start a new run from its weights: `uniopd export` writes them as a model."
            )
        average.load_state(saved[name], f"model.teachers.{name}")
    for name in saved.keys() - averages.keys():
        log.warning("The checkpoint's average for teacher %s is not used: this run has no such teacher.", name)


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
