"""What one rollout says about the student, as averages to log."""

from collections.abc import Iterable

from torch import Tensor

from lit_uniopd.monitoring.weighted_means import WeightedMeans
from lit_uniopd.types import CORRECT, UNKNOWN, Rollouts


def rollout_statistics(
    rollouts: Rollouts, routes: list[str] | None, domains: Iterable[str], teachers: Iterable[str]
) -> WeightedMeans:
    """Averages of a scored rollout, overall, per domain and per teacher.

    Args:
        rollouts: graded and scored.
        routes: name of each sample's teacher; None: there are no teachers.
        domains: every domain of the data, so that all ranks average the same names.
        teachers: every teacher's name, likewise.
    """
    averages = WeightedMeans()
    for name, values_B, of_B in _per_sample(rollouts):
        averages.add(f"rollout/{name}", values_B[of_B].sum(), of_B.sum())
    averages.add("rollout/unknown_outcomes", (rollouts.outcome_B == UNKNOWN).sum(), len(rollouts))
    averages.add("rollout/teacher_failed", (~rollouts.teacher_ok_B).sum(), len(rollouts))
    averages.add("rollout/removed", (~rollouts.keep_B).sum(), len(rollouts))
    averages.add("rollout/reward", (rollouts.advantages_BT * rollouts.mask_BT).sum(), rollouts.mask_BT.sum())
    _add_split(averages, rollouts, "domain", rollouts.domain, domains)
    if routes is not None:
        _add_split(averages, rollouts, "teacher", routes, teachers)
    return averages


def _per_sample(rollouts: Rollouts) -> list[tuple[str, Tensor, Tensor]]:
    """(name, value per sample, which samples have one)."""
    every_B = rollouts.lengths_B >= 0
    cut_B = every_B.new_tensor([reason == "length" for reason in rollouts.finish])
    return [
        ("length", rollouts.lengths_B.double(), every_B),
        ("truncated", cut_B.double(), every_B),
        ("outcome_rate", (rollouts.outcome_B == CORRECT).double(), rollouts.outcome_B != UNKNOWN),
    ]


def _add_split(averages: WeightedMeans, rollouts: Rollouts, kind: str, labels: list[str], names: Iterable[str]) -> None:
    """Outcome rate, length and KL to the teacher for each value of a label."""
    # Reverse KL on the sampled tokens: mean of log p_student - log p_teacher, where a teacher has scored.
    gap_BT = (rollouts.student_logps_BT - rollouts.teacher_logps_BT) * rollouts.mask_BT
    for name in sorted({*names, *labels}):
        here_B = rollouts.teacher_ok_B.new_tensor([label == name for label in labels])
        scored_B = here_B & rollouts.teacher_ok_B
        averages.add(f"{kind}/{name}/kl", gap_BT[scored_B].sum(), rollouts.lengths_B[scored_B].sum())
        for metric, values_B, of_B in _per_sample(rollouts):
            averages.add(f"{kind}/{name}/{metric}", values_B[here_B & of_B].sum(), (here_B & of_B).sum())
