"""What a token of an answer is worth: the teacher's opinion, the outcome, or a control in their place."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lit_uniopd.errors import UserError
from lit_uniopd.functional.opd import extrapolated_advantages, opd_advantages
from lit_uniopd.functional.outcome import constant_negative_advantages, outcome_advantages, shuffled_advantages
from lit_uniopd.types import Rollouts


@dataclass
class AdvantageArgs:
    """Where advantages come from; the defaults are plain on-policy distillation, ``log p_T - log p_S``."""

    teacher: Literal["real", "shuffled", "constant_negative", "self"] = "real"
    """Does the teacher's signal matter? `shuffled`: its token scores on other tokens of the rollout;
    `constant_negative`: all tokens punished alike, as strongly as its scores are on average; `self`: the student before
    training in its place."""
    teacher_weight: float = 1.0
    """Weight of the teacher's signal; 0 trains on outcomes alone, and no teacher is loaded."""
    extrapolation: float = 1.0
    """ExOPD: aim beyond the teacher, away from the student before training (G-OPD has 1.25); 1: at the teacher."""
    baseline: Literal["none", "kl", "topk"] = "none"
    """What the teacher's signal at a token is compared with, so that its variance falls and its mean gradient stays:
    its mean over the student's distribution there, by a pass over whole distributions. `kl`: over the vocabulary;
    `topk`: over the student's `loss.top_k` likeliest tokens, and the others as one."""
    reference_weight: float = 0.0
    """Weight of the KL to the student before training, which holds it there (and answers from growing)."""
    outcome_weight: float = 0.0
    """Weight of the outcome reward relative to its group, added to every token of an answer (KD + RL)."""
    outcome_scale: Literal["mean", "std"] = "mean"
    """Outcome relative to the group's mean, or also divided by its standard deviation (GRPO)."""

    def __post_init__(self) -> None:
        if min(self.teacher_weight, self.outcome_weight, self.reference_weight) < 0:
            raise UserError(
                "--model.advantage.teacher_weight, outcome_weight and reference_weight must be 0 or more; mend the "
                "negative one."
            )
        if self.baseline != "none" and (self.teacher != "real" or not self.needs_teachers):
            raise UserError(
                f"--model.advantage.baseline {self.baseline} is the mean of a real teacher's signal; set baseline "
                "none, or teacher real with a teacher_weight above 0."
            )
        if self.teacher_weight == self.outcome_weight == 0:
            raise UserError(
                "--model.advantage.teacher_weight and outcome_weight are both 0, so nothing is learned; raise one."
            )

    @property
    def needs_teachers(self) -> bool:
        """Whether any teacher has to score."""
        return self.teacher_weight > 0 and self.teacher != "self"

    @property
    def needs_reference(self) -> bool:
        """Whether the student before training has to score."""
        aims = self.teacher_weight > 0 and (self.teacher == "self" or self.extrapolation != 1)
        return aims or self.reference_weight > 0


def rollout_advantages(
    rollouts: Rollouts,
    args: AdvantageArgs,
    *,
    reference_logps_BT: Tensor | None,
    seed: int,
    baseline_BT: Tensor | None = None,
) -> Tensor:
    """Advantages ``[B, T]`` of a scored rollout; 0 at padding, wherever the teacher failed, and on tokens that it
    could not align with its own.

    Args:
        rollouts: graded and scored.
        args: where they come from.
        reference_logps_BT: of the student before training; needed if ``args.needs_reference``.
        seed: of the shuffled control.
        baseline_BT: mean of the teacher's signal at each token; None: nothing is subtracted.
    """
    student, mask_BT = rollouts.student_logps_BT, rollouts.scored_BT & rollouts.teacher_ok_B[:, None]
    scored: dict[str, Tensor] = {"teacher_ok_B": rollouts.teacher_ok_B}
    advantages_BT = opd_advantages(rollouts.teacher_logps_BT, student, rollouts.scored_BT, **scored)
    if args.extrapolation != 1 and reference_logps_BT is not None:
        logps = (rollouts.teacher_logps_BT, student, reference_logps_BT)
        advantages_BT = extrapolated_advantages(*logps, rollouts.scored_BT, scale=args.extrapolation, **scored)
    if baseline_BT is not None:
        advantages_BT = advantages_BT - baseline_BT * mask_BT
    if args.teacher == "shuffled":
        advantages_BT = shuffled_advantages(advantages_BT, mask_BT, seed=seed)
    if args.teacher == "constant_negative":
        advantages_BT = constant_negative_advantages(advantages_BT, mask_BT)
    if args.teacher_weight != 1:
        advantages_BT = args.teacher_weight * advantages_BT
    if args.reference_weight and reference_logps_BT is not None:
        # A policy gradient of KL(student || reference), as the teacher's signal is one of KL(student || teacher).
        advantages_BT = advantages_BT + args.reference_weight * (reference_logps_BT - student) * mask_BT
    if args.outcome_weight:
        bonus_B = outcome_advantages(rollouts.outcome_B, rollouts.group_B, scale=args.outcome_scale)
        advantages_BT = advantages_BT + args.outcome_weight * bonus_B[:, None] * mask_BT
    return advantages_BT
