"""A grader's verdict on one answer.

Torch-free on purpose: grading processes import this module and must start in milliseconds.
"""

from dataclasses import dataclass

CORRECT, INCORRECT, UNKNOWN = 1, 0, -1
"""Values of ``Rollouts.outcome_B``."""
KILLED = ("timeout", "memory")
"""Reasons of answers whose process was killed or gave up."""


@dataclass(frozen=True, slots=True)
class Grade:
    """A grader's verdict on one answer."""

    correct: bool | None
    """None: the grader could not decide (``reason`` says why); such an answer counts as unknown."""
    score: float
    """In [0, 1]; 1.0 for correct, 0.0 for incorrect and unknown unless the grader gives partial credit.
    A user's reward function may go beyond."""
    extracted: str | None = None
    """The final answer that was found in the response."""
    reason: str = "ok"
    """``ok | wrong | no_answer | truncated | timeout | memory | error | no_gold | unsafe`` (no sandbox to run it in)
    ``| not_judged`` (a reward function of a user's returned None)."""

    @property
    def outcome(self) -> int:
        """1 correct, 0 incorrect, -1 unknown."""
        return UNKNOWN if self.correct is None else int(self.correct)


NO_GRADER = Grade(correct=None, score=0.0, reason="no_grader")
