"""The first steps on answers that teachers write, for a student that would hardly ever draw them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from lit_uniopd.errors import UserError
from lit_uniopd.modules.opd.losses import LossArgs
from lit_uniopd.sampling.args import ColocateArgs, SamplingArgs
from lit_uniopd.teachers import TeacherArgs
from lit_uniopd.teachers.routing import Mixture, Routing

log = logging.getLogger(__name__)


@dataclass
class WarmStartArgs:
    """For the first steps teachers write the answers, and the student learns from their whole distributions there: what
    it gives no probability it does not draw, and so a loss on its own answers cannot teach it.
    """

    steps: int
    """Optimizer steps; a rollout that has begun is used up. From then on the student writes."""
    kind: Literal["forward_kl", "reverse_kl", "jsd", "topk"] = "forward_kl"
    """The loss of these steps, in the place of `loss.kind`."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(
                f"--model.warm_start.steps must be at least 1, got {self.steps}; set --model.warm_start null to begin "
                "with the student's own answers."
            )


@dataclass(frozen=True, slots=True)
class Phase:
    """Who writes a rollout, and what is learned from it."""

    writer: Literal["student", "teacher"]
    sampling: SamplingArgs
    loss: LossArgs

    def at(self, warm_start: WarmStartArgs | None, step: int) -> "Phase":
        """The phase of a rollout, of which this is the one after the warm start.

        Args:
            warm_start: of the run.
            step: optimizer steps that were taken before it.
        """
        if warm_start is None or step >= warm_start.steps:
            return self
        # Teachers write by the loop, since they come and go on the device; no ratio of the sampled loss is left.
        sampling = replace(self.sampling, engine="loop", server=None, lag=0, colocate=ColocateArgs())
        return Phase("teacher", sampling, replace(self.loss, kind=warm_start.kind, importance_cap=None))


def phase_at(module: Any, step: int) -> Phase:
    """The phase of a rollout, with a line of log where the warm start is over.

    Args:
        module: ``UniOPD`` in training, still in the phase before.
        step: optimizer steps that were taken before it.
    """
    phase = Phase(module.writer, module.rollout_sampling, module.loss).at(module.warm_start, step)
    if module.phase.writer == "teacher" and phase.writer == "student":
        log.info("Step %d: the warm start is over, and the student writes.", step)
    return phase


def refuse_warm_start(
    warm_start: WarmStartArgs | None, writer: str, teachers: Mapping[str, TeacherArgs], routing: Routing, loss: LossArgs
) -> None:
    """Refuse a warm start with teachers that cannot write, or do so anyway; also with what rows mix, when it is routed.

    Args:
        warm_start: of the run.
        writer: ``--model.writer``.
        teachers: by name.
        routing: of prompts to them.
        loss: of the run.

    Raises:
        UserError: naming the flags.
    """
    if warm_start is None:
        return
    if loss.entry_clip is not None and warm_start.kind == "topk":
        raise UserError(
            f"--model.warm_start.kind topk has no place for --model.loss.entry_clip {loss.entry_clip:g}; choose "
            "forward_kl, reverse_kl or jsd, or set entry_clip to null."
        )
    if writer == "teacher":
        raise UserError(
            "--model.warm_start ends when the student begins to write, and with --model.writer teacher it never does; "
            "leave one of the two out."
        )
    if not teachers:
        raise UserError(
            "--model.warm_start is on answers of teachers, and --model.advantage leaves none to ask; leave warm_start "
            "out."
        )
    for name, args in teachers.items():
        why = f"placement {args.placement}" if args.placement in ("http", "disk_cache") else ""
        why = why or ("cross_tokenizer" if args.cross_tokenizer else "gather layers" if args.gather == "layers" else "")
        if why:
            raise UserError(
                f"--model.warm_start lets teachers write and compares whole distributions, which cannot be had with "
                f"--model.teachers.{name}.{why}; place the teacher here, with the student's tokenizer, or leave "
                "warm_start out."
            )
    check = routing.check

    def refuse_mixtures(where: str, mixture: Mixture) -> None:
        check(where, mixture)
        if len(mixture.shares) > 1:
            raise UserError(
                f"--model.warm_start lets one model write, and {where} has a mixture of {len(mixture.shares)}; route "
                "the prompts to one of them, or leave warm_start out."
            )

    for name, mixture in routing.mixtures.items():
        refuse_mixtures(f"--model.teachers.{name}.mixture", mixture)
    routing.check = refuse_mixtures
