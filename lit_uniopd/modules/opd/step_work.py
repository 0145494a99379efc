"""How fast the parts of a step are: tokens a second, and the share that they use of what the devices can do."""

from collections.abc import Mapping, Sequence
from typing import Any

from lit_uniopd.monitoring.peak_flops import peak_flops
from lit_uniopd.monitoring.tensorboard_layout import Charts
from lit_uniopd.monitoring.weighted_means import WeightedMeans
from lit_uniopd.policy.flops import Passes, Work, work_of
from lit_uniopd.types import Rollouts


class StepWork:
    """What a step of ``UniOPD`` computes on this rank, and what its device can do.

    Args:
        module: with its models loaded; what it costs to run them is read now, when none is being trained.
    """

    def __init__(self, module: Any) -> None:
        self.peak = peak_flops(module.device)
        self.student: Work = work_of(module.policy.model)
        self.teachers = {name: work_of(policy.model) for name, policy in module.teachers.loaded.items()}
        self.teachers |= {name: self.student for name, args in module.teachers.args.items() if args.is_student}

    @property
    def charts(self) -> Charts:
        """Of what ``add`` adds."""
        charts = {
            "Tokens a second": [
                "rollout/tokens_per_second",
                "time/score_tokens_per_second",
                "time/update_tokens_per_second",
            ]
        }
        if self.peak is not None:
            parts = ("mfu", "rollout_mfu", "score_mfu", "update_mfu")
            charts["Share of the devices' peak (MFU)"] = [f"time/{part}" for part in parts]
        return charts

    def add(self, means: WeightedMeans, module: Any, rollouts: Rollouts, seconds: Mapping[str, float]) -> None:
        """Add `time/PART_tokens_per_second`, of all ranks, and where the device's peak is known `time/PART_mfu`.

        Args:
            means: to be averaged over ranks.
            module: ``UniOPD``.
            rollouts: of the step.
            seconds: of each part of the step, and of the whole `step`.
        """
        passes = _passes(rollouts)
        student = module.phase.writer == "student"
        operations = {
            "rollout": self.student.forward(passes) if student else self._teaching(module, rollouts),
            "score": self._scoring(module, rollouts),
            "update": self.student.update(passes),
        }
        if module.phase.loss.kind != "sampled":
            operations["update"] += self._teaching(module, rollouts)
        if student and module.sampling.server is not None:
            operations.pop("rollout")  # it is written elsewhere
        ranks = module.trainer.world_size
        for part, count in operations.items():
            if part in seconds and part != "rollout":  # whose tokens a second are those of its answers
                means.add(f"time/{part}_tokens_per_second", ranks * passes.tokens, seconds[part])
            if part in seconds and self.peak is not None:
                means.add(f"time/{part}_mfu", count, self.peak * seconds[part])
        if self.peak is not None:
            means.add("time/mfu", sum(operations.values()), self.peak * seconds["step"])

    def _scoring(self, module: Any, rollouts: Rollouts) -> int:
        """Operations of the teachers, and of the policies that score beside them."""
        own_logps = module.phase.writer == "teacher" or module.phase.sampling.engine == "vllm"
        by_student = own_logps + module.advantage.needs_reference
        return self._teaching(module, rollouts) + by_student * self.student.forward(_passes(rollouts))

    def _teaching(self, module: Any, rollouts: Rollouts) -> int:
        """Operations of each teacher's pass over its answers; of those on servers or read from disk, none."""
        rows: dict[str, list[int]] = {}
        for row, prompt in enumerate(rollouts.prompts if module.teachers else ()):
            for name in module.teachers.shares(module.teachers.route(prompt)):
                rows.setdefault(name, []).append(row)
        operations = 0
        for name in rows.keys() & self.teachers.keys():
            lengths = module.teachers.lengths([rollouts.prompts[row] for row in rows[name]])
            operations += self.teachers[name].forward(_passes(rollouts, rows[name], lengths))
        return operations


def _passes(rollouts: Rollouts, rows: Sequence[int] | None = None, lengths: Sequence[int] | None = None) -> Passes:
    """Every answer once, and every group's prompt.

    Args:
        rollouts: the answers.
        rows: of these answers; None: of all.
        lengths: tokens of each of their prompts as a teacher reads it; 0, and None for all: as the student does.
    """
    rows = range(len(rollouts)) if rows is None else rows
    groups, answers = rollouts.group_B.tolist(), rollouts.lengths_B.tolist()
    read = lengths or [0] * len(rows)
    prompts = [length or len(rollouts.prompt_tokens[row]) for row, length in zip(rows, read, strict=True)]
    # Once for each that its answers are read behind: a teacher that reads one of them reads another behind that.
    group_prompts = {(groups[row], prompt) for row, prompt in zip(rows, prompts, strict=True)}
    return Passes.over(
        [prompt for _, prompt in sorted(group_prompts)],
        [(p, answers[row]) for row, p in zip(rows, prompts, strict=True)],
    )
