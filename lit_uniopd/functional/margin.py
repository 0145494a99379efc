"""Outcome-guided margin calibration: make the teacher's token scores agree with the outcomes.

The return of an answer is the mean of its token advantages. In each group (answers to one prompt) the correct answers
should score above the incorrect ones by a margin; where they do not, shift both sets apart, drop the worst offenders,
or drop the group. Behaviour of the official ``margin_shift.py`` and ``margin_mask_greedy.py``, with three differences:
statistics can leave samples out (``include_B``), scope ``global`` obeys the direction everywhere, and an empty answer
belongs to no set instead of being NaN.

Returns are those of ``grouped_returns``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from lit_uniopd.functional.grouped_returns import CORRECT, INCORRECT, GroupedReturns
from lit_uniopd.functional.projection import math_dtype

Scope = Literal["group", "global"]
Statistic = Literal["mean", "minmax"]
Direction = Literal["correct_up", "incorrect_down", "both"]


@dataclass(frozen=True, slots=True)
class MarginResult:
    """Calibrated advantages and the margins around the calibration.

    The tensors over groups cover all ranks and live on the CPU. They list *mixed* groups, those with correct and
    incorrect samples, in ascending order of their number; a margin exists in no other.
    """

    advantages: Tensor
    """``[B, T]``, a new tensor."""
    shift_B: Tensor
    """What was added to each token of a sample."""
    masked_B: Tensor
    """Bool: samples whose advantages were set to 0 by ``margin_mask`` or ``margin_discard``."""
    groups: Tensor
    """Numbers of the mixed groups; a single 0 stands for the batch if the scope is global."""
    margin_before: Tensor
    """float64, one per mixed group."""
    margin_after: Tensor
    """float64, one per mixed group; over what samples a mask leaves, of what groups a discard leaves."""
    violations: int
    """Mixed groups whose margin was below delta."""
    n_groups: int
    """All groups, mixed or not."""


@torch.no_grad()
def margin_shift(
    advantages_BT: Tensor,
    mask_BT: Tensor,
    outcome_B: Tensor,
    group_B: Tensor,
    *,
    scope: Scope = "group",
    statistic: Statistic = "mean",
    direction: Direction = "both",
    delta: float = 0.4,
    include_B: Tensor | None = None,
    process_group: dist.ProcessGroup | None = None,
) -> MarginResult:
    """Shift whole samples by a constant so that every mixed group's margin is at least ``delta``.

    A group below delta is lifted by ``lambda = delta - margin``: onto each token of its correct samples
    (``correct_up``), off its incorrect ones (``incorrect_down``), or half and half. The order of tokens inside a sample
    stays as it is.

    Args:
        advantages_BT: Token advantages.
        mask_BT: True on response tokens; only these are averaged and shifted.
        outcome_B: 1 correct, 0 incorrect, -1 unknown (in neither set, never shifted).
        group_B: Integer number of each sample's prompt, the same on all ranks.
        scope: Margins per group, or one over the whole batch.
        statistic: ``mean``: difference of the sets' mean returns. ``minmax``: worst correct minus best incorrect.
        direction: Which set moves.
        delta: Required margin, in nats per token.
        include_B: False takes a sample out of both sets: no statistics, no shift.
        process_group: Gather samples over these ranks first, so that groups may straddle ranks. All ranks must call.

    Raises:
        ValueError: if shapes differ, an outcome is none of 1, 0, -1, or an option is unknown.

    Example:
        >>> advantages_BT, mask_BT = torch.tensor([[-1.0], [0.0]]), torch.ones(2, 1)
        >>> result = margin_shift(advantages_BT, mask_BT, torch.tensor([1, 0]), torch.tensor([7, 7]), delta=0.4)
        >>> result.margin_before.item(), result.shift_B  # half of the missing 1.4 for each set
        (-1.0, tensor([ 0.7000, -0.7000]))
    """
    if direction not in ("correct_up", "incorrect_down", "both"):
        raise ValueError(f"direction must be 'correct_up', 'incorrect_down' or 'both', got {direction!r}")
    batch = GroupedReturns.build(advantages_BT, mask_BT, outcome_B, group_B, scope, include_B, process_group)
    mixed, before = batch.margins(statistic)
    gap = torch.zeros(len(batch.numbers), dtype=torch.float64)
    gap[mixed] = (delta - before).clamp(min=0.0)
    up, down = {"correct_up": (1.0, 0.0), "incorrect_down": (0.0, 1.0), "both": (0.5, 0.5)}[direction]
    shift = up * gap[batch.group] * (batch.set == CORRECT) - down * gap[batch.group] * (batch.set == INCORRECT)
    _, after = batch.margins(statistic, shift=shift)

    shift_B = shift[batch.local].to(advantages_BT.device, math_dtype(advantages_BT))
    return MarginResult(
        advantages=torch.where(mask_BT.bool(), advantages_BT + shift_B[:, None], advantages_BT),
        shift_B=shift_B,
        masked_B=torch.zeros_like(shift_B, dtype=torch.bool),
        groups=batch.numbers[mixed],
        margin_before=before,
        margin_after=after,
        violations=int((before < delta).sum()),
        n_groups=len(batch.numbers),
    )


@torch.no_grad()
def margin_mask(
    advantages_BT: Tensor,
    mask_BT: Tensor,
    outcome_B: Tensor,
    group_B: Tensor,
    *,
    scope: Scope = "group",
    statistic: Statistic = "mean",
    delta: float = 0.4,
    min_retain: float = 0.25,
    include_B: Tensor | None = None,
    process_group: dist.ProcessGroup | None = None,
) -> MarginResult:
    """Set the advantages of the worst samples to 0, one by one, until every mixed group's margin reaches ``delta``.

    Greedy: of the worst correct and the best incorrect sample drop the one that helps more (the correct one in a tie).
    A group stops when neither helps, or when both sets are down to ``max(1, int(size * min_retain))``. Dropped samples
    keep their place in the loss denominators.

    Args and errors as in ``margin_shift``; ``min_retain`` must lie in [0, 1].

    Example:
        >>> advantages_BT, mask_BT = torch.tensor([[-3.0], [1.0], [0.0]]), torch.ones(3, 1)
        >>> result = margin_mask(advantages_BT, mask_BT, torch.tensor([1, 1, 0]), torch.tensor([7, 7, 7]), delta=0.4)
        >>> result.masked_B.tolist(), result.margin_before.item(), result.margin_after.item()
        ([True, False, False], -1.0, 1.0)
    """
    if not 0.0 <= min_retain <= 1.0:
        raise ValueError(f"min_retain must be in [0, 1], got {min_retain}")
    batch = GroupedReturns.build(advantages_BT, mask_BT, outcome_B, group_B, scope, include_B, process_group)
    mixed, before = batch.margins(statistic)
    dropped = torch.zeros(len(batch.set), dtype=torch.bool)
    for group in mixed[before < delta].tolist():
        correct, incorrect = (_ordered(batch, group, side) for side in (CORRECT, INCORRECT))
        values = [batch.returns[rows].tolist() for rows in (correct, incorrect)]
        n_correct, n_incorrect = greedy_drops(*values, statistic=statistic, delta=delta, min_retain=min_retain)
        dropped[correct[:n_correct]] = True
        dropped[incorrect[:n_incorrect]] = True
    _, after = batch.margins(statistic, without=dropped)

    return _without(dropped, advantages_BT, batch, mixed, before, after, delta)


@torch.no_grad()
def margin_discard(
    advantages_BT: Tensor,
    mask_BT: Tensor,
    outcome_B: Tensor,
    group_B: Tensor,
    *,
    statistic: Statistic = "minmax",
    delta: float = 0.0,
    include_B: Tensor | None = None,
    process_group: dist.ProcessGroup | None = None,
) -> MarginResult:
    """Set the advantages of whole groups to 0 where the margin is below ``delta``: the paper's first version (Eq. 10).

    All samples of such a group are dropped, those of unknown outcome and those that ``include_B`` leaves out of the
    margin too. They keep their place in the loss denominators. Other groups, not mixed ones among them, stay as they
    are. Args and errors as in ``margin_shift``.

    Example:
        >>> advantages_BT, mask_BT = torch.tensor([[-3.0], [1.0], [0.0], [5.0]]), torch.ones(4, 1)
        >>> outcome_B, group_B = torch.tensor([1, 1, 0, 0]), torch.tensor([7, 7, 7, 8])
        >>> result = margin_discard(advantages_BT, mask_BT, outcome_B, group_B)  # -3 is below 0
        >>> result.masked_B.tolist(), result.margin_before.item(), len(result.margin_after)
        ([True, True, True, False], -3.0, 0)
    """
    batch = GroupedReturns.build(advantages_BT, mask_BT, outcome_B, group_B, "group", include_B, process_group)
    mixed, before = batch.margins(statistic)
    inverted = before < delta
    dropped = torch.isin(batch.group, mixed[inverted])
    return _without(dropped, advantages_BT, batch, mixed, before, before[~inverted], delta)


def _without(
    dropped: Tensor,
    advantages_BT: Tensor,
    batch: GroupedReturns,
    mixed: Tensor,
    before: Tensor,
    after: Tensor,
    delta: float,
) -> MarginResult:
    """The result of dropping samples; those of all ranks are named, and this rank's advantages changed."""
    masked_B = dropped[batch.local].to(advantages_BT.device)
    return MarginResult(
        advantages=torch.where(masked_B[:, None], 0.0, advantages_BT),
        shift_B=torch.zeros(len(masked_B), dtype=math_dtype(advantages_BT), device=advantages_BT.device),
        masked_B=masked_B,
        groups=batch.numbers[mixed],
        margin_before=before,
        margin_after=after,
        violations=int((before < delta).sum()),
        n_groups=len(batch.numbers),
    )


def greedy_drops(
    correct: Sequence[float], incorrect: Sequence[float], *, statistic: Statistic, delta: float, min_retain: float
) -> tuple[int, int]:
    """How many samples of each set ``margin_mask`` drops: the first of ``correct`` and the first of ``incorrect``.

    Args:
        correct: Returns, worst first.
        incorrect: Returns, best first.
        statistic: See ``margin_shift``.
        delta: Required margin.
        min_retain: Share of each set that must stay.

    Example:
        >>> greedy_drops([-3.0, 1.0], [0.0], statistic="mean", delta=0.4, min_retain=0.25)
        (1, 0)
    """
    # Exact arithmetic: "strictly larger" must not depend on how a sum was rounded, nor on the order of the ranks.
    sets = [[Fraction(value) for value in values] for values in (correct, incorrect)]
    floors = [max(1, int(len(values) * min_retain)) for values in sets]
    sums, drops = [sum(values, Fraction()) for values in sets], [0, 0]

    def margin(side: int | None) -> Fraction | None:
        """The margin with one more sample of that side dropped; None if it must stay."""
        levels: list[Fraction] = []
        for i, values in enumerate(sets):
            n_dropped = drops[i] + (i == side)
            if i == side and len(values) - drops[i] <= floors[i]:
                return None
            remaining = sums[i] - (values[drops[i]] if i == side else 0)
            levels.append(values[n_dropped] if statistic == "minmax" else remaining / (len(values) - n_dropped))
        return levels[0] - levels[1]

    current = margin(None)
    while current is not None and current < Fraction(delta):
        options = [(value, -side) for side in (0, 1) if (value := margin(side)) is not None]
        best = max(options, default=(current, 0))
        if best[0] <= current:
            break
        side = -best[1]
        sums[side] -= sets[side][drops[side]]
        drops[side] += 1
        current = best[0]
    return drops[0], drops[1]


def _ordered(batch: GroupedReturns, group: int, side: int) -> Tensor:
    """Sample indices of one set, the worst offender first."""
    rows = ((batch.group == group) & (batch.set == side)).nonzero()[:, 0]
    return rows[batch.returns[rows].argsort(descending=side == INCORRECT, stable=True)]
