"""Are outcomes known where something needs them? Without them balancing and calibration silently do nothing."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning import Trainer

from lit_uniopd.benchmarks.heldout import example_of
from lit_uniopd.benchmarks.loading import gold_response
from lit_uniopd.errors import UserError
from lit_uniopd.grade import KILLED
from lit_uniopd.modules.opd.advantages import AdvantageArgs
from lit_uniopd.rewards import Grade, GradeItem, GraderPool
from lit_uniopd.types import Prompt
from lit_uniopd.utils.trainer_data import TrainerData

log = logging.getLogger(__name__)

TRIED = 128
"""Gold answers of each grader that are tried, spread evenly over its prompts."""
OTHER = r"\boxed{271828}"
"""An answer that is not the gold's own text, which `math` accepts unread. It holds no program, so that none is run."""
FEW = 0.05
"""Share of unusable ones beyond which it is warned of."""
MANY = 0.5
"""Share beyond which a run stops that needs outcomes."""


def outcome_users(advantage: AdvantageArgs, trainer: Trainer) -> list[str]:
    """What in a run can do nothing without outcomes, by its name or flag.

    Args:
        advantage: of the objective.
        trainer: its datamodule may have ``online_balance``, its callbacks a true ``needs_outcomes``.
    """
    callbacks: Sequence[Any] = trainer.callbacks  # type: ignore[attr-defined]
    users = ["--model.advantage.outcome_weight"] if advantage.outcome_weight else []
    balanced = getattr(TrainerData(trainer).datamodule, "online_balance", None) is not None
    users += ["--data.online_balance"] if balanced else []
    return users + [type(callback).__name__ for callback in callbacks if getattr(callback, "needs_outcomes", False)]


@dataclass(frozen=True, slots=True)
class GoldTrial:
    """How one grader judged the gold answers of some prompts."""

    grader: str
    tried: int
    unknown: tuple[Prompt, ...]
    """Its outcomes stay unknown, whatever the answer: the gold has another form than the grader's."""
    refused: tuple[Prompt, ...]
    """The gold answer itself is judged wrong."""

    @property
    def unusable(self) -> tuple[Prompt, ...]:
        return self.unknown + self.refused


def try_golds(prompts: Sequence[Prompt], graders: GraderPool) -> list[GoldTrial]:
    """Let each grader judge gold answers, written as a model would; golds that are tests are read, not run.

    Args:
        prompts: those without a grader are passed over.
        graders: judge them.
    """
    by_grader: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        if prompt.grader is not None:
            by_grader.setdefault(prompt.grader, []).append(prompt)
    trials = []
    for name, rows in by_grader.items():
        sample = rows[:: -(-len(rows) // TRIED)]
        responses = [gold_response(name, example_of(prompt)) for prompt in sample]
        gold_items = [GradeItem(name, p.gold, answer or "", p.row) for p, answer in zip(sample, responses, strict=True)]
        grades = graders.grade([*gold_items, *(replace(item, response=OTHER) for item in gold_items)])
        judged = list(zip(sample, responses, grades[: len(gold_items)], grades[len(gold_items) :], strict=True))
        unknown = tuple(prompt for prompt, _, *pair in judged if any(map(_unreadable, pair)))
        refused = tuple(
            prompt
            for prompt, response, grade, _ in judged
            # Of several golds any one may be too rare to be right by itself.
            if grade.correct is False and grade.reason not in KILLED
            if response is not None and not isinstance(prompt.gold, list | tuple)
        )
        trials.append(GoldTrial(name, len(sample), unknown, refused))
    return trials


def _unreadable(grade: Grade) -> bool:
    """A busy machine or a missing sandbox says nothing about the gold answer."""
    return grade.correct is None and grade.reason not in (*KILLED, "unsafe")


def check_golds(prompts: Sequence[Prompt], graders: GraderPool, users: Sequence[str], *, warns: bool = True) -> None:
    """Try the gold answers of training prompts before any model is loaded.

    Args:
        prompts: to train on.
        graders: judge them.
        users: what needs outcomes; see ``outcome_users``.
        warns: whether this process is the one that says what is wrong and not fatal.

    Raises:
        UserError: if something needs outcomes, and those of a grader's prompts will mostly stay unknown.
    """
    if prompts and users and warns and all(prompt.grader is None for prompt in prompts):
        log.warning(
            f"No training prompt has a grader, so outcomes are unknown and {', '.join(users)} can do nothing; name one "
            "by --data.train.grader, or leave these out."
        )
    for trial in try_golds(prompts, graders):
        if users and len(trial.unknown) > MANY * trial.tried:
            raise UserError(
                f"{_complaint(trial, trial.unknown)}: outcomes stay unknown, and {', '.join(users)} can do nothing; "
                "name the grader that takes this form by --data.train.grader or in the column `grader`, or rewrite the "
                "answers in the form of this one (docs/own_models.md)."
            )
        if warns and len(trial.unusable) > FEW * trial.tried:
            log.warning(
                f"{_complaint(trial, trial.unusable)}: {len(trial.unknown)} stay unknown, {len(trial.refused)} count "
                "as wrong, whatever the answer; name another grader by --data.train.grader, or mend the answers "
                "(docs/own_models.md)."
            )


def _complaint(trial: GoldTrial, prompts: Sequence[Prompt]) -> str:
    return (
        f"Grader {trial.grader!r} cannot use the gold answers of {len(prompts)} of {trial.tried} training prompts that "
        f"were tried, that of {prompts[0].id!r} for one ({_form(prompts[0].gold)})"
    )


def _form(gold: Any) -> str:
    """What a gold answer looks like, in a few words."""
    try:
        fields = json.loads(gold) if isinstance(gold, str) else gold
    except ValueError:
        fields = gold
    return f"a mapping of {', '.join(map(str, fields))}" if isinstance(fields, Mapping) else repr(gold)[:60]
