"""The best answer of a group, for teachers that read it while they score the others (SDPO, arXiv 2601.20802).

SDPO gives the teacher a right attempt of the same group; here it is the one of the highest score, and of those the
shortest: it costs least in every prompt that holds it, and does not teach answers to grow, as they are known to do in
such runs (arXiv 2604.08527).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from lit_uniopd.monitoring.weighted_means import WeightedMeans
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.types import CORRECT, Prompt, Rollouts

SHOWN, ITSELF, MISSING = "demonstration", "demonstration_is_itself", "demonstration_missing"
"""What an answer's teacher read: another right answer; none, as the answer is the only right one; none, as there is no
right answer."""


def show_best_answers(rollouts: Rollouts, teachers: TeacherPool) -> None:
    """Give the prompt of each answer the best right answer of its group that is another text than itself.

    Args:
        rollouts: graded; a group's answers are all here. Prompts are exchanged where a teacher reads such an answer.
        teachers: of the run.
    """
    if not teachers.showing_best:
        return
    right = _right_answers(rollouts)
    prompts: dict[tuple[int, str | None], Prompt] = {}
    for row, (prompt, group) in enumerate(zip(rollouts.prompts, rollouts.group_B.tolist(), strict=True)):
        if teachers.shows_best(prompt):
            best = next((text for text in right.get(group, []) if text != rollouts.text[row].strip()), None)
            # Answers that are shown the same share one prompt, which is encoded once.
            rollouts.prompts[row] = prompts.setdefault((group, best), replace(prompt, best_answer=best))


def add_demonstrations(means: WeightedMeans, rollouts: Rollouts, teachers: TeacherPool) -> None:
    """Add the shares of answers whose teacher has read another right one, or why it has not.

    Args:
        means: to be averaged over ranks.
        rollouts: of a step.
        teachers: of the run; one at least shows best answers.
    """
    right = _right_answers(rollouts)
    counts = Counter(
        SHOWN if prompt.best_answer is not None else ITSELF if right.get(group) else MISSING
        for prompt, group in zip(rollouts.prompts, rollouts.group_B.tolist(), strict=True)
        if teachers.shows_best(prompt)
    )
    for name in (SHOWN, ITSELF, MISSING):
        means.add(f"rollout/{name}", counts[name], counts.total())


def _right_answers(rollouts: Rollouts) -> Mapping[int, list[str]]:
    """Texts of each group's right answers that have ended, the best first.

    By their grades: plug-ins may change outcomes, and a rollout that is taken up again is to be read as before.
    """
    lengths, right = rollouts.lengths_B.tolist(), dict[int, list[tuple[float, int, str]]]()
    for row, (group, grade) in enumerate(zip(rollouts.group_B.tolist(), rollouts.grades, strict=True)):
        text = rollouts.text[row].strip()
        if grade.outcome == CORRECT and rollouts.finish[row] == "stop" and text:
            right.setdefault(group, []).append((-grade.score, lengths[row], text))
    return {group: [text for *_, text in sorted(answers)] for group, answers in right.items()}
