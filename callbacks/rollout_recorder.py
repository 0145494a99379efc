"""Some rollouts of a run with all their tokens, for `uniopd view`."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from lightning import Callback, LightningModule, Trainer

from lit_uniopd.errors import UserError
from lit_uniopd.modules.opd.losses import never_gap_masked
from lit_uniopd.modules.opd.uni_opd import UniOPD
from lit_uniopd.monitoring.step_interval import rollout_passes_multiple
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.types import Prompt
from lit_uniopd.utils.jsonl import append_lines, rank_file
from lit_uniopd.utils.lightning_internals import logged_step
from lit_uniopd.utils.run_directory import run_directory
from lit_uniopd.view import GROUPS_FILE
from lit_uniopd.view.records import chosen_groups, group_record, token_pieces


class RolloutRecorder(Callback):
    """Write groups of answers that are worth a look to `rollouts.jsonl` of the run's directory.

    Of every domain and teacher: the group with the answer that its teacher likes best, the one with the answer that it
    likes least, and the one in which it ranks a wrong answer furthest above a right one. `uniopd view RUN` shows them,
    token by token, as the update saw them: balanced, calibrated, clipped. Each rank writes groups of its own answers.

    Args:
        every_n_steps: optimizer steps between two records, of which a rollout may take several; the first is recorded.
        max_tokens: of each answer; longer ones are cut, and marked so.
    """

    def __init__(self, every_n_steps: int = 10, max_tokens: int = 1024) -> None:
        for name, number in (("every_n_steps", every_n_steps), ("max_tokens", max_tokens)):
            if number < 1:
                raise UserError(f"RolloutRecorder.{name} must be at least 1, got {number}.")
        self.every_n_steps = every_n_steps
        self.max_tokens = max_tokens

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the chosen groups after the updates, when it is known which tokens were clipped.

        A rollout whose updates a killed run left for the resumed one is written by the resumed run.
        """
        step = logged_step(trainer)
        if not isinstance(pl_module, UniOPD) or pl_module.rollouts is None:
            return
        if not rollout_passes_multiple(trainer, self.every_n_steps, updated=True):
            return
        rollouts = pl_module.rollouts
        path = run_directory(trainer) / GROUPS_FILE
        teachers = pl_module.teachers
        routes = [teachers.route(prompt) for prompt in rollouts.prompts] if teachers else [""] * len(rollouts)
        spared_BT = never_gap_masked(rollouts, pl_module.loss, pl_module.policy.eos_ids)
        rows_of: dict[int, list[int]] = {}
        for row, group in enumerate(rollouts.group_B.tolist()):
            rows_of.setdefault(group, []).append(row)
        lines = [
            group_record(
                rollouts,
                rows_of[group],
                step=step,
                teacher=routes[rows_of[group][0]],
                why=why,
                pieces=partial(token_pieces, pl_module.policy.tokenizer),
                gap_threshold=pl_module.loss.gap_threshold if pl_module.phase.loss.kind == "sampled" else None,
                max_tokens=self.max_tokens,
                never_gap_masked_BT=spared_BT,
                read=_reading(teachers, [rollouts.prompts[row] for row in rows_of[group]]) if teachers else None,
            )
            for group, why in chosen_groups(rollouts, routes).items()
        ]
        append_lines(rank_file(path, trainer.global_rank), lines)


def _reading(teachers: TeacherPool, prompts: Sequence[Prompt]) -> Prompt:
    """What the teacher of a group has read; behind the first answer that it read another right one with, if any."""
    return teachers.reading(next((prompt for prompt in prompts if prompt.best_answer is not None), prompts[0]))
