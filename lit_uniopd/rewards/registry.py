"""Which graders exist, and where each of them runs."""

from collections.abc import Callable, Mapping

from lit_uniopd.errors import UserError
from lit_uniopd.grade import Grade
from lit_uniopd.rewards.anls import grade_anls
from lit_uniopd.rewards.caption import grade_amber, grade_chair
from lit_uniopd.rewards.chart import grade_chartqa_normalised, grade_chartqa_relaxed
from lit_uniopd.rewards.choice import grade_choice
from lit_uniopd.rewards.code import grade_code_functional, grade_code_stdio
from lit_uniopd.rewards.code_labels import grade_code
from lit_uniopd.rewards.custom import is_custom, load_grader
from lit_uniopd.rewards.exact import grade_exact
from lit_uniopd.rewards.grade import Grader, guarded
from lit_uniopd.rewards.ifeval import grade_ifeval
from lit_uniopd.rewards.lmms_reasoning import grade_lmms_reasoning
from lit_uniopd.rewards.mathematics import grade_math
from lit_uniopd.rewards.numeric import grade_numeric
from lit_uniopd.rewards.playground import grade_playground
from lit_uniopd.rewards.vqa import grade_vqa_soft
from lit_uniopd.rewards.yes_no import grade_yes_no
from lit_uniopd.utils.near_names import did_you_mean

INLINE: Mapping[str, Grader] = {
    name: guarded(name, grade)
    for name, grade in {
        "amber": grade_amber,
        "anls": grade_anls,
        "chair": grade_chair,
        "chartqa_normalised": grade_chartqa_normalised,
        "chartqa_relaxed": grade_chartqa_relaxed,
        "choice": grade_choice,
        "exact": grade_exact,
        "ifeval": grade_ifeval,
        "numeric": grade_numeric,
        "playground": grade_playground,
        "vqa_soft": grade_vqa_soft,
        "yes_no": grade_yes_no,
    }.items()
}
"""Comparisons of strings, run where they are called."""

IN_WORKER: Mapping[str, Callable[..., Grade]] = {"lmms_reasoning": grade_lmms_reasoning, "math": grade_math}
"""Graders that hostile answers can stall or crash, run in grading processes; they see the gold answer as text and no
row."""

IN_THREAD: Mapping[str, Callable[..., Grade]] = {
    "code": grade_code,
    "code_functional": grade_code_functional,
    "code_stdio": grade_code_stdio,
}
"""Graders that wait for processes of their own; they see the gold answer as it is, and receive the ``sandbox``."""


def check_grader(name: str) -> None:
    """Refuse names behind which there is no grader; that of a user's own is imported.

    Raises:
        UserError: with the name that was meant, or all there are.
    """
    if name in INLINE or name in IN_WORKER or name in IN_THREAD:
        return
    if is_custom(name):
        load_grader(name)
        return
    names = sorted([*INLINE, *IN_WORKER, *IN_THREAD])
    raise UserError(
        f"There is no grader named {name!r}{did_you_mean(name, names)}; name one of {', '.join(names)}, or your own by "
        "its module, as in `grader: my_module.is_right`."
    )
