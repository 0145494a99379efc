"""Grading rollouts in the grader pool while the trainer does something else."""

import torch

from lit_uniopd.rewards import GradeItem, GraderPool
from lit_uniopd.types import Rollouts
from lit_uniopd.utils.progress import follow, progress_bar


class Grading:
    """Answers that the grader pool is judging while this process does something else.

    As a context manager it cancels what has not begun when its body fails.

    Args:
        rollouts: the answers; those to prompts without a grader stay unknown.
        graders: the pool that judges them.
    """

    def __init__(self, rollouts: Rollouts, graders: GraderPool) -> None:
        self.rollouts, self.graders = rollouts, graders
        self.rows = [row for row, prompt in enumerate(rollouts.prompts) if prompt.grader is not None]
        items = [
            GradeItem(
                grader=str(rollouts.prompts[row].grader),
                gold=rollouts.prompts[row].gold,
                response=rollouts.text[row],
                row=rollouts.prompts[row].row,
                messages=rollouts.prompts[row].messages,
            )
            for row in self.rows
        ]
        self.futures = graders.submit(items)

    def finish(self) -> None:
        """Wait for the last grade, and fill in ``grades`` and ``outcome_B``."""
        with progress_bar(len(self.futures), "grading answers", unit="answer") as bar:
            grades = self.graders.collect(self.futures, on_progress=follow(bar))
        for row, grade in zip(self.rows, grades, strict=True):
            self.rollouts.grades[row] = grade
        outcomes = [grade.outcome for grade in self.rollouts.grades]
        self.rollouts.outcome_B = torch.tensor(outcomes, dtype=torch.long, device=self.rollouts.outcome_B.device)

    def __enter__(self) -> "Grading":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is not None:
            for future in self.futures:
                future.cancel()


def grade_answers(rollouts: Rollouts, graders: GraderPool) -> None:
    """Fill in ``grades`` and ``outcome_B``; answers to prompts without a grader stay unknown."""
    Grading(rollouts, graders).finish()
