"""What one rollout says about the student, as averages to log."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from lit_uniopd.distributed.collectives import max_over_ranks, sum_over_ranks
from lit_uniopd.grade import KILLED
from lit_uniopd.modules.opd.demonstrations import add_demonstrations
from lit_uniopd.modules.opd.engine_drift import add_engine_drift
from lit_uniopd.monitoring.weighted_means import WeightedMeans
from lit_uniopd.rewards import GRADERS
from lit_uniopd.types import CORRECT, UNKNOWN, Rollouts

LINE_VALUES = {
    "train/loss": "train/loss",
    "KL": "train/kl_all_tokens",
    "reward": "rollout/reward",
    "correct": "rollout/outcome_rate",
    "length": "rollout/length",
}
"""What a line about a step shows: name -> tag."""


def step_metrics(
    module: Any, rollouts: Rollouts, trained: WeightedMeans, seconds: Mapping[str, float]
) -> dict[str, float]:
    """What a step's rollout and update were like, averaged over all ranks, and where this rank's time went.

    A collective call.

    Args:
        module: ``UniOPD`` in training.
        rollouts: of the step.
        trained: statistics of its updates.
        seconds: of each part of the step, and of the whole `step`.
    """
    teachers, domains, custom_graders = module.teachers, module.domains, module.custom_graders
    # Whether the student's answers come from an engine with kernels of its own.
    own_kernels = module.phase.writer == "student" and module.phase.sampling.engine == "vllm"
    # What it waits for: data, the slowest rank, and graders that take longer than the teachers.
    trained.add("time/idle_share", seconds.get("wait", 0.0) + seconds.get("grade", 0.0), seconds["step"])
    module.work.add(trained, module, rollouts, seconds)
    routes = [teachers.route(prompt) for prompt in rollouts.prompts] if teachers else None
    means = rollout_statistics(rollouts, routes, domains, teachers, custom_graders)
    if (counts := teachers.cache_counts()) is not None:
        means.add("rollout/teacher_cached", counts[0], sum(counts))
    for name, aligner in teachers.aligners.items():
        counts = aligner.counts
        means.add(f"teacher/{name}/one_to_one", counts["one_to_one"], counts["tokens"])
        means.add(f"teacher/{name}/unaligned", counts["unaligned"], counts["tokens"])
    if teachers.showing_best:
        add_demonstrations(means, rollouts, teachers)
    drift = add_engine_drift(means, rollouts) if own_kernels else None
    metrics = means.reduce(module) | trained.reduce(module)
    if drift is not None:
        metrics["rollout/engine_drift_max"] = max_over_ranks(module, drift)
    metrics |= {f"time/{name}": duration for name, duration in seconds.items()}
    tokens = sum_over_ranks(module, int(rollouts.mask_BT.sum()))
    lagged = module.lagged
    if lagged.overlapped is not None:
        metrics["time/rollout_overlapped"] = lagged.overlapped
    written = {"rollout": lagged.seconds if module.phase.sampling.lag else seconds.get("rollout")}
    for tag, duration in (written | {"time": seconds["step"]}).items():
        if duration is not None:  # what a resumed run had written before is not
            metrics[f"{tag}/tokens_per_second"] = tokens / max(duration, 1e-9)
    return metrics


def rollout_statistics(
    rollouts: Rollouts,
    routes: list[str] | None,
    domains: Iterable[str],
    teachers: Iterable[str],
    custom_graders: Iterable[str] = (),
) -> WeightedMeans:
    """Averages of a scored rollout, overall, per domain and per teacher.

    Args:
        rollouts: graded and scored.
        routes: name of each sample's teacher; None: there are no teachers.
        domains: every domain of the data, so that all ranks average the same names.
        teachers: every teacher's name, likewise.
        custom_graders: every grader of a user's own that the data name, likewise.
    """
    averages = WeightedMeans()
    for name, values_B, of_B in _per_sample(rollouts):
        averages.add(f"rollout/{name}", values_B[of_B].sum(), of_B.sum())
    # Not of answers that the horizon has cut: no grader failed there, and `rollout/truncated` has them.
    other_B = rollouts.keep_B.new_tensor([grade.reason != "truncated" for grade in rollouts.grades])
    averages.add("rollout/unknown_outcomes", ((rollouts.outcome_B == UNKNOWN) & other_B).sum(), len(rollouts))
    averages.add("rollout/empty", sum(not text.strip() for text in rollouts.text), len(rollouts))
    different = set(zip(rollouts.group_B.tolist(), rollouts.text, strict=True))
    averages.add("rollout/distinct", len(different), len(rollouts))
    # Of every grader there is, so that all ranks average the same names; those without answers are left out.
    graders = [prompt.grader for prompt in rollouts.prompts]
    for name in (*GRADERS, *custom_graders):
        errors = [grade.reason == "error" for grade, used in zip(rollouts.grades, graders, strict=True) if used == name]
        averages.add(f"rollout/grader_error/{name}", sum(errors), len(errors))
    averages.add("rollout/teacher_failed", (~rollouts.teacher_ok_B).sum(), len(rollouts))
    averages.add("rollout/removed", (~rollouts.keep_B).sum(), len(rollouts))
    averages.add("rollout/reward", (rollouts.advantages_BT * rollouts.mask_BT).sum(), rollouts.mask_BT.sum())
    _add_split(averages, rollouts, "domain", rollouts.domain, domains)
    if routes is not None:
        _add_split(averages, rollouts, "teacher", routes, teachers)
        # Beside the loss, which sees neither masked tokens nor answers that were left out.
        scored_B = rollouts.teacher_ok_B
        averages.add("train/kl_all_tokens", _kl_BT(rollouts)[scored_B].sum(), rollouts.scored_BT[scored_B].sum())
    return averages


def _per_sample(rollouts: Rollouts) -> list[tuple[str, Tensor, Tensor]]:
    """(name, value per sample, which samples have one)."""
    every_B = rollouts.lengths_B >= 0
    cut_B = every_B.new_tensor([reason == "length" for reason in rollouts.finish])
    # An answer that its grader had to give up is not right, whatever training makes of it.
    killed_B = every_B.new_tensor([grade.reason in KILLED for grade in rollouts.grades])
    return [
        ("length", rollouts.lengths_B.double(), every_B),
        ("truncated", cut_B.double(), every_B),
        ("outcome_rate", (rollouts.outcome_B == CORRECT).double(), (rollouts.outcome_B != UNKNOWN) | killed_B),
    ]


def _kl_BT(rollouts: Rollouts) -> Tensor:
    """Reverse KL on the sampled tokens, ``log p_student - log p_teacher``; holds where a teacher has scored."""
    return (rollouts.student_logps_BT - rollouts.teacher_logps_BT) * rollouts.scored_BT


def _add_split(averages: WeightedMeans, rollouts: Rollouts, kind: str, labels: list[str], names: Iterable[str]) -> None:
    """Outcome rate, length and KL to the teacher for each value of a label."""
    kl_BT = _kl_BT(rollouts)
    for name in sorted({*names, *labels}):
        here_B = rollouts.teacher_ok_B.new_tensor([label == name for label in labels])
        scored_B = here_B & rollouts.teacher_ok_B
        averages.add(f"{kind}/{name}/kl", kl_BT[scored_B].sum(), rollouts.scored_BT[scored_B].sum())
        for metric, values_B, of_B in _per_sample(rollouts):
            averages.add(f"{kind}/{name}/{metric}", values_B[here_B & of_B].sum(), (here_B & of_B).sum())
