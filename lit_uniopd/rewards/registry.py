"""Which graders exist, and where each of them runs."""

from collections.abc import Callable, Mapping

from lit_uniopd.errors import UserError
from lit_uniopd.rewards.grade import Grade, Grader, guarded
from lit_uniopd.rewards.mathematics import grade_math
from lit_uniopd.rewards.playground import grade_playground
from lit_uniopd.rewards.text import grade_exact

INLINE: Mapping[str, Grader] = {
    "exact": guarded("exact", grade_exact),
    "playground": guarded("playground", grade_playground),
}
"""Comparisons of strings, run where they are called."""

IN_WORKER: Mapping[str, Callable[..., Grade]] = {"math": grade_math}
"""Graders that hostile answers can stall or crash, run in grading processes; they see the gold answer as text and no
row."""


def check_grader(name: str) -> None:
    """Refuse unknown names.

    Raises:
        UserError: with the names there are.
    """
    if name not in INLINE and name not in IN_WORKER:
        known = ", ".join(sorted([*INLINE, *IN_WORKER]))
        raise UserError(f"There is no grader named {name!r}; name one of {known}.")
