"""Offline difficulty-aware balancing: prompts that the student sometimes gets right are seen more often (Uni-OPD)."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.samplers import ResumableBatchSampler
from lit_uniopd.errors import UserError
from lit_uniopd.functional.balance import DROPPED, Shape, difficulty_repeats
from lit_uniopd.scorers.pass_rates import read_difficulties
from lit_uniopd.types import Prompt

log = logging.getLogger(__name__)


@dataclass
class DifficultyArgs:
    """Repeat prompts of medium difficulty until every difficulty is as common as the most common one."""

    path: str
    """Pass counts, written by `uniopd predict -c configs/uni_opd/difficulty.yaml`."""
    shape: Shape = "auto"
    """What is repeated: u: prompts with 1 .. N-1 right answers of N; mirrored_j: with 1 .. N; auto: by the data. Or
    nothing is, and prompts are left out, as in the paper's ablations: those with N right answers (drop_all_right), or
    with none (drop_all_wrong)."""
    target: int | None = None
    """Number of prompts of each repeated difficulty. Default: that of the most common difficulty."""
    cap: int = 8
    """No prompt is seen more often than this in one pass."""


@dataclass(frozen=True, slots=True)
class DifficultyReport:
    """How balancing changes the training prompts."""

    repeats_P: Tensor
    """How often each prompt is seen in a pass."""
    before: list[int]
    """Prompts with 0, 1, .. N right answers."""
    after: list[int]
    """The same, each counted as often as it is seen."""
    unmeasured: int
    """Prompts without a pass count, seen once."""


class DifficultyBalancedSampler(ResumableBatchSampler):
    """A resumable training order in which rows are repeated.

    Args:
        repeats: for each source, how often each of its rows is seen.
        options: as for `ResumableBatchSampler`; ``sizes`` are those with repetitions.
    """

    def __init__(self, repeats: Sequence[Tensor], **options: Any) -> None:
        super().__init__([int(r.sum()) for r in repeats], **options)
        repeats_P = torch.cat(list(repeats))
        self.rows = torch.arange(len(repeats_P)).repeat_interleave(repeats_P)

    def _row(self, n: int) -> int:
        return int(self.rows[super()._row(n)])


def balance_difficulty(prompts: Sequence[Prompt], args: DifficultyArgs, seed: int) -> DifficultyReport:
    """How often each prompt should be seen.

    Raises:
        UserError: if the pass counts are of other prompts or of different numbers of answers.
    """
    difficulties = read_difficulties(Path(args.path))
    entries = [difficulties.get(prompt.key) for prompt in prompts]
    judged = [entry for entry in entries if entry is not None and entry.attempts]
    if not judged:
        raise UserError(
            f"--data.difficulty.path {args.path} has pass counts of none of the training prompts; measure them by "
            "`uniopd predict -c configs/uni_opd/difficulty.yaml`."
        )
    attempts = max(entry.attempts + entry.unknown for entry in judged)
    if any(entry.attempts + entry.unknown != attempts for entry in judged):
        raise UserError(
            f"--data.difficulty.path {args.path} mixes prompts with different numbers of answers; measure them anew "
            "in a file of its own."
        )
    if args.shape in DROPPED and (args.target is not None or args.cap != DifficultyArgs.cap):
        raise UserError(
            f"--data.difficulty.shape {args.shape} repeats no prompt; leave out --data.difficulty.target and .cap."
        )
    # A prompt with a missing verdict cannot be compared with the others.
    correct_P = torch.tensor([-1 if entry is None or entry.attempts < attempts else entry.correct for entry in entries])
    repeats_P = difficulty_repeats(correct_P, attempts, shape=args.shape, target=args.target, cap=args.cap, seed=seed)
    measured_P = correct_P >= 0
    before, weights = correct_P[measured_P], repeats_P[measured_P].double()
    report = DifficultyReport(
        repeats_P=repeats_P,
        before=torch.bincount(before, minlength=attempts + 1).tolist(),
        after=torch.bincount(before, weights=weights, minlength=attempts + 1).long().tolist(),
        unmeasured=int((~measured_P).sum()),
    )
    log.info("Right answers of %d: prompts %s become %s.", attempts, report.before, report.after)
    if dropped := int((repeats_P == 0).sum()):
        log.info("%d of %d training prompts are left out (%s).", dropped, len(prompts), args.shape)
    if report.unmeasured:
        log.warning(
            "%d of %d training prompts have no full pass count and are seen once.", report.unmeasured, len(prompts)
        )
    return report
