"""Data balancing: which prompts a student should see more often, and which of its answers an update should use.

Offline, prompts that the student sometimes gets right are repeated until every difficulty is as common as the most
common one (Uni-OPD, section on offline difficulty-aware balancing; the repeat factors are ours, the paper gives none).
Online, correct and incorrect answers are brought to a ratio by leaving some out (official
``online_balance/rollout_sample_balance.py``).
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from lit_uniopd.functional.grouped_returns import CORRECT, IGNORED, INCORRECT
from lit_uniopd.utils.seeding import derive_seed

Shape = Literal["auto", "u", "mirrored_j", "drop_all_right", "drop_all_wrong"]
DROPPED: dict[str, int] = {"drop_all_right": 1, "drop_all_wrong": 0}
"""Ablation -> the share of right answers whose prompts are not seen."""
Scope = Literal["group", "global"]
UnknownAs = Literal["excluded", "incorrect"]


def balance_outcomes(
    outcome_B: Tensor,
    group_B: Tensor,
    *,
    ratio: float = 1.0,
    scope: Scope = "group",
    unknown: UnknownAs = "excluded",
    seed: int = 0,
) -> Tensor:
    """Choose answers so that ``correct : incorrect`` comes close to ``ratio``.

    Where there are too many correct answers for the incorrect ones, ``int(incorrect * ratio)`` random ones of them
    stay, and the other way round ``int(correct / ratio)``. Sets of one kind only (all correct, all wrong) are left
    alone, and so are those where that number would be 0. Which answers stay depends on the seed and the group's number
    alone.

    Args:
        outcome_B: 1 correct, 0 incorrect, -1 unknown.
        group_B: Answers to one prompt share a number.
        ratio: Number of correct answers to keep for each incorrect one. 0 removes every correct answer, ``inf`` every
            incorrect one.
        scope: Balance each group, or the batch as a whole.
        unknown: ``excluded``: answers of unknown outcome always stay and are not counted; ``incorrect``: they count as
            incorrect, as in the released code.
        seed: Of the choice.

    Returns:
        Bool ``[B]``; False for answers that should not train.

    Raises:
        ValueError: naming the argument that is out of range.

    Example:
        >>> outcome_B, group_B = torch.tensor([1, 1, 1, 0, 0]), torch.tensor([7, 7, 7, 7, 8])
        >>> keep_B = balance_outcomes(outcome_B, group_B)
        >>> int(keep_B[:3].sum()), keep_B[3:].tolist()  # one correct answer for the incorrect one; group 8 has one kind
        (1, [True, True])
    """
    if outcome_B.shape != group_B.shape or outcome_B.dim() != 1:
        raise ValueError(f"outcome_B and group_B must be [B], not {tuple(outcome_B.shape)}, {tuple(group_B.shape)}")
    if not bool(torch.isin(outcome_B.cpu(), torch.tensor([CORRECT, INCORRECT, IGNORED])).all()):
        raise ValueError("outcome_B must hold 1 (correct), 0 (incorrect) or -1 (unknown)")
    if math.isnan(ratio) or ratio < 0:
        raise ValueError(f"ratio must be 0 or more, not {ratio}")
    if scope not in ("group", "global"):
        raise ValueError(f"scope must be group or global, not {scope!r}")
    if unknown not in ("excluded", "incorrect"):
        raise ValueError(f"unknown must be excluded or incorrect, not {unknown!r}")
    outcomes = outcome_B.cpu()
    if unknown == "incorrect":
        outcomes = outcomes.clamp(min=INCORRECT)
    groups = group_B.cpu() if scope == "group" else torch.zeros_like(outcomes)
    keep_B = torch.ones(len(outcomes), dtype=torch.bool)
    for group in groups.unique().tolist():
        correct = ((groups == group) & (outcomes == CORRECT)).nonzero()[:, 0]
        incorrect = ((groups == group) & (outcomes == INCORRECT)).nonzero()[:, 0]
        dropped, count = _surplus(correct, incorrect, ratio)
        if count == 0:
            continue
        generator = torch.Generator().manual_seed(derive_seed(seed, "balance", group))
        keep_B[dropped[torch.randperm(len(dropped), generator=generator)[:count]]] = False
    return keep_B.to(outcome_B.device)


def _surplus(correct: Tensor, incorrect: Tensor, ratio: float) -> tuple[Tensor, int]:
    """From which of the two sets to drop, and how many."""
    if ratio == 0:
        return correct, len(correct)
    if math.isinf(ratio):
        return incorrect, len(incorrect)
    if len(correct) == 0 or len(incorrect) == 0:
        return correct, 0
    correct_target, incorrect_target = int(len(incorrect) * ratio), int(len(correct) / ratio)
    if len(correct) > correct_target >= 1:
        return correct, len(correct) - correct_target
    if len(incorrect) > incorrect_target >= 1:
        return incorrect, len(incorrect) - incorrect_target
    return correct, 0


def difficulty_repeats(
    correct_P: Tensor,
    attempts: int,
    *,
    shape: Shape = "auto",
    target: int | None = None,
    cap: int = 8,
    seed: int = 0,
) -> Tensor:
    """How often each prompt should be seen, so that difficulties are equally common.

    A prompt's difficulty is the number of right answers among ``attempts``. Prompts of an upsampled difficulty with n
    prompts are repeated ``target / n`` times: all of them ``floor(target / n)`` times, and a random part of them once
    more so that they are ``target`` together. Nothing is removed, but by the two ablations, which repeat nothing.

    Args:
        correct_P: Number of right answers to each prompt; negative: not measured, such a prompt is seen once.
        attempts: Number of answers to each prompt (N in the paper; 8 there).
        shape: Which difficulties are upsampled. ``u``: 1 .. N-1, for data with many prompts at both ends;
            ``mirrored_j``: 1 .. N, for data with few easy prompts; ``auto``: ``mirrored_j`` if fewer than a third as
            many prompts are always right as are always wrong, else ``u``. ``drop_all_right`` and ``drop_all_wrong``,
            the paper's ablations: none, and prompts with N right answers, or with none, are not seen.
        target: Number of prompts to reach for each upsampled difficulty. None: that of the most common difficulty.
        cap: No prompt is seen more often than this.
        seed: Of the choice of prompts that are seen once more.

    Returns:
        int64 ``[P]``, at least 1 everywhere but in the ablations, where what is dropped has 0.

    Raises:
        ValueError: naming the argument that is out of range.

    Example:
        >>> difficulty_repeats(torch.tensor([0, 0, 0, 0, 1, 1, 2]), attempts=2).tolist()  # 4 prompts of each difficulty
        [1, 1, 1, 1, 2, 2, 4]
    """
    if correct_P.dim() != 1 or correct_P.is_floating_point():
        raise ValueError(f"correct_P must be whole numbers [P], not {correct_P.dtype} {tuple(correct_P.shape)}")
    if attempts < 1 or bool((correct_P > attempts).any()):
        raise ValueError(f"attempts must be at least 1 and no number in correct_P above it, not {attempts}")
    if cap < 1 or (target is not None and target < 1):
        raise ValueError(f"cap and target must be at least 1, not {cap} and {target}")
    if shape not in get_args(Shape):
        raise ValueError(f"shape must be one of {', '.join(get_args(Shape))}, not {shape!r}")
    counts = correct_P.cpu()
    if shape in DROPPED:
        return (counts != DROPPED[shape] * attempts).long().to(correct_P.device)
    sizes = torch.bincount(counts[counts >= 0], minlength=attempts + 1).tolist()
    goal = target or max(sizes)
    repeats_P = torch.ones(len(counts), dtype=torch.long)
    for difficulty in upsampled(sizes, shape):
        rows = (counts == difficulty).nonzero()[:, 0]
        if len(rows) == 0 or goal <= len(rows):
            continue
        base, remainder = divmod(goal, len(rows))
        generator = torch.Generator().manual_seed(derive_seed(seed, "difficulty", difficulty))
        repeats_P[rows] = base
        repeats_P[rows[torch.randperm(len(rows), generator=generator)[:remainder]]] += 1
    return repeats_P.clamp(max=cap).to(correct_P.device)


def upsampled(sizes: list[int], shape: Shape) -> range:
    """The difficulties that are seen more often.

    Args:
        sizes: number of prompts with 0, 1, .. N right answers.
        shape: as in `difficulty_repeats`, not an ablation.

    Example:
        >>> list(upsampled([4, 2, 1], "auto")), list(upsampled([4, 2, 1], "u"))
        ([1, 2], [1])
    """
    attempts = len(sizes) - 1
    if shape == "auto":
        shape = "mirrored_j" if sizes[attempts] < sizes[0] / 3 else "u"
    return range(1, attempts + (shape == "mirrored_j"))
