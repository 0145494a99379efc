"""Are outcomes known where something needs them? Without them balancing and calibration silently do nothing."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lightning import Trainer

from lit_uniopd.benchmarks.golds import trial_objections, try_golds
from lit_uniopd.modules.opd.advantages import AdvantageArgs
from lit_uniopd.rewards import GraderPool
from lit_uniopd.types import Prompt
from lit_uniopd.utils.objections import Objection, refuse_or_warn
from lit_uniopd.utils.trainer_data import TrainerData


def outcome_scopes(advantage: AdvantageArgs, trainer: Trainer, showing_best: Iterable[str] = ()) -> dict[str, str]:
    """What in a run can do nothing without outcomes, by its name or flag -> what it compares: a group, or all (global).

    Args:
        advantage: of the objective.
        trainer: its datamodule may have ``online_balance``, its callbacks a true ``needs_outcomes``.
        showing_best: teachers that read a right answer of the group.
    """
    callbacks: Sequence[Any] = trainer.callbacks  # type: ignore[attr-defined]
    scopes = {"--model.advantage.outcome_weight": "group"} if advantage.outcome_weight else {}
    scopes |= {f"--model.teachers.{name}.reads.template": "group" for name in showing_best}
    balance = getattr(TrainerData(trainer).datamodule, "online_balance", None)
    if balance is not None:
        scopes["--data.online_balance"] = getattr(balance, "scope", "group")
    needing = [callback for callback in callbacks if getattr(callback, "needs_outcomes", False)]
    return scopes | {type(callback).__name__: getattr(callback, "scope", "group") for callback in needing}


def outcome_users(advantage: AdvantageArgs, trainer: Trainer, showing_best: Iterable[str] = ()) -> list[str]:
    """The names of ``outcome_scopes``."""
    return list(outcome_scopes(advantage, trainer, showing_best))


def gold_objections(prompts: Sequence[Prompt], graders: GraderPool, users: Sequence[str] = ()) -> Iterator[Objection]:
    """What the gold answers of training prompts make impossible, found before any model is loaded.

    Args:
        prompts: to train on.
        graders: judge them.
        users: what needs their outcomes; see ``outcome_users``.
    """
    if prompts and users and all(prompt.grader is None for prompt in prompts):
        yield Objection(
            "golds",
            f"No training prompt has a grader, so outcomes are unknown and {', '.join(users)} can do nothing; name one "
            "by --data.train.grader, or leave these out.",
            refused=True,
        )
    option = "--data.train.grader or in the column `grader`"
    yield from trial_objections(try_golds(prompts, graders), "training prompts", option, users)


def check_golds(prompts: Sequence[Prompt], graders: GraderPool, users: Sequence[str], *, warns: bool = True) -> None:
    """Try the gold answers of training prompts before any model is loaded; as ``gold_objections``.

    Raises:
        UserError: if something needs outcomes, and those of a grader's prompts will mostly stay unknown.
    """
    refuse_or_warn(gold_objections(prompts, graders, users), warns=warns)
