"""Outcome-guided margin calibration: make the teacher's token scores agree with the outcomes.

The return of an answer is the mean of its token advantages. In each group (answers to one prompt) the correct answers
should score above the incorrect ones by a margin; where they do not, shift both sets apart, drop the worst offenders,
or drop the group. Behaviour of the official ``margin_shift.py`` and ``margin_mask_greedy.py``, with three differences:
statistics can leave samples out (``include_B``), scope ``global`` obeys the direction everywhere, and an empty answer
belongs to no set instead of being NaN.

Statistics are taken in float64 on the CPU from the samples of all ranks, so it does not matter how a batch is split.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from lit_uniopd.functional.projection import math_dtype

Scope = Literal["group", "global"]
Statistic = Literal["mean", "minmax"]
Direction = Literal["correct_up", "incorrect_down", "both"]

CORRECT, INCORRECT, IGNORED = 1, 0, -1
"""Which set a sample is in; the first two as in ``outcome_B``."""


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


@dataclass(frozen=True, slots=True)
class OrderReport:
    """How well returns and outcomes agree. Tensors list mixed groups, in ascending order of their number."""

    groups: Tensor
    margin_mean: Tensor
    """Mean return of the correct minus mean return of the incorrect samples."""
    margin_minmax: Tensor
    """Lowest correct minus highest incorrect return; a group is in order if it is not negative."""
    inversions: Tensor
    """Pairs in which the incorrect sample returns more than the correct one; a tie is none."""
    pairs: Tensor
    """All pairs of a correct and an incorrect sample."""
    n_groups: int
    """All groups with at least one known outcome."""
    all_correct: int
    """Groups without an incorrect sample."""
    all_incorrect: int
    """Groups without a correct sample."""

    @property
    def consistent_share(self) -> float:
        """Share of the mixed groups that are in order. NaN if there are none."""
        return (self.margin_minmax >= 0).double().mean().item()

    @property
    def inversion_rate(self) -> float:
        """Inverted pairs by all pairs, over all mixed groups. NaN if there are none."""
        return (self.inversions.sum().double() / self.pairs.sum()).item()


def trajectory_returns(advantages_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean advantage ``[B]`` over the response tokens; 0 for an empty response.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> trajectory_returns(torch.tensor([[0.5, -1.5, 9.0]]), torch.tensor([[True, True, False]]))
        tensor([-0.5000])
    """
    return _returns(advantages_BT, mask_BT).to(math_dtype(advantages_BT))


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
    batch = _Batch.build(advantages_BT, mask_BT, outcome_B, group_B, scope, include_B, process_group)
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
    batch = _Batch.build(advantages_BT, mask_BT, outcome_B, group_B, scope, include_B, process_group)
    mixed, before = batch.margins(statistic)
    dropped = torch.zeros(len(batch.set), dtype=torch.bool)
    for group in mixed[before < delta].tolist():
        correct, incorrect = (_ordered(batch, group, side) for side in (CORRECT, INCORRECT))
        values = [batch.returns[rows].tolist() for rows in (correct, incorrect)]
        n_correct, n_incorrect = greedy_drops(*values, statistic=statistic, delta=delta, min_retain=min_retain)
        dropped[correct[:n_correct]] = True
        dropped[incorrect[:n_incorrect]] = True
    _, after = batch.margins(statistic, without=dropped)

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
    batch = _Batch.build(advantages_BT, mask_BT, outcome_B, group_B, "group", include_B, process_group)
    mixed, before = batch.margins(statistic)
    inverted = before < delta
    masked_B = torch.isin(batch.group, mixed[inverted])[batch.local].to(advantages_BT.device)
    return MarginResult(
        advantages=torch.where(masked_B[:, None], 0.0, advantages_BT),
        shift_B=torch.zeros(len(masked_B), dtype=math_dtype(advantages_BT), device=advantages_BT.device),
        masked_B=masked_B,
        groups=batch.numbers[mixed],
        margin_before=before,
        margin_after=before[~inverted],
        violations=int(inverted.sum()),
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


@torch.no_grad()
def order_consistency(returns_B: Tensor, outcome_B: Tensor, group_B: Tensor) -> OrderReport:
    """Whether correct answers return at least as much as incorrect ones to the same prompt (Uni-OPD, App. B.3).

    Args:
        returns_B: See ``trajectory_returns``.
        outcome_B: 1 correct, 0 incorrect, -1 unknown (left out).
        group_B: Number of each sample's prompt.

    Raises:
        ValueError: if the shapes differ or an outcome is none of 1, 0, -1.

    Example:
        >>> report = order_consistency(torch.tensor([0.5, -0.5, 0.0]), torch.tensor([1, 1, 0]), torch.tensor([7, 7, 7]))
        >>> report.consistent_share, report.inversion_rate  # one of the two correct answers is below the incorrect one
        (0.0, 0.5)
    """
    _check_samples(returns_B, outcome_B=outcome_B, group_B=group_B)
    graded = (outcome_B != IGNORED).cpu()
    numbers, group = group_B.cpu()[graded].unique(return_inverse=True)
    sets, returns = outcome_B.cpu().long()[graded], returns_B.detach().cpu().double()[graded]
    batch = _Batch(returns, sets, group, numbers, slice(None))
    mixed, mean = batch.margins("mean")
    right, wrong = sets == CORRECT, sets == INCORRECT
    same = group[right][:, None] == group[wrong][None]
    inverted = same & (returns[wrong][None] > returns[right][:, None])
    zeros = torch.zeros(len(numbers), dtype=torch.long)
    pairs, inversions = (
        zeros.index_add(0, group[right], pair_mask.sum(dim=1))[mixed] for pair_mask in (same, inverted)
    )
    has = [torch.zeros(len(numbers), dtype=torch.bool).index_fill(0, group[sets == s], True) for s in (0, 1)]
    return OrderReport(
        groups=numbers[mixed],
        margin_mean=mean,
        margin_minmax=batch.margins("minmax")[1],
        inversions=inversions,
        pairs=pairs,
        n_groups=len(numbers),
        all_correct=int((~has[0]).sum()),
        all_incorrect=int((~has[1]).sum()),
    )


@dataclass(frozen=True, slots=True)
class _Batch:
    """The samples of all ranks, on the CPU."""

    returns: Tensor
    set: Tensor
    group: Tensor
    """Index into ``numbers``."""
    numbers: Tensor
    local: slice
    """This rank's samples."""

    @classmethod
    def build(
        cls,
        advantages: Tensor,
        mask: Tensor,
        outcome: Tensor,
        group: Tensor,
        scope: str,
        include: Tensor | None,
        process_group: dist.ProcessGroup | None,
    ) -> "_Batch":
        if scope not in ("group", "global"):
            raise ValueError(f"scope must be 'group' or 'global', got {scope!r}")
        returns = _returns(advantages, mask)
        _check_samples(returns, outcome_B=outcome, group_B=group, include_B=include)
        used = mask.bool().any(dim=1)
        used = used if include is None else used & include.bool()
        sets = torch.where(used, outcome, IGNORED).long()
        number = torch.zeros_like(sets) if scope == "global" else group.long()
        local = slice(0, len(returns))
        if process_group is not None:
            returns, sets, number, local = _gather(returns, sets, number, process_group)
        numbers, index = number.cpu().unique(return_inverse=True)
        return cls(returns.cpu(), sets.cpu(), index, numbers, local)

    def margins(
        self, statistic: str, *, shift: Tensor | None = None, without: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Indices of the mixed groups and their margins, after a shift or without some samples."""
        if statistic not in ("mean", "minmax"):
            raise ValueError(f"statistic must be 'mean' or 'minmax', got {statistic!r}")
        returns = self.returns if shift is None else self.returns + shift
        sets = self.set if without is None else self.set.masked_fill(without, IGNORED)
        levels = []
        for side, extreme, start in ((CORRECT, "amin", math.inf), (INCORRECT, "amax", -math.inf)):
            rows = sets == side
            reduce = "mean" if statistic == "mean" else extreme
            # NaN marks a set without members; a mean would start from 0 and an extreme from infinity.
            start = start if statistic == "minmax" else 0.0
            level = torch.full((len(self.numbers),), start, dtype=torch.float64)
            level.scatter_reduce_(0, self.group[rows], returns[rows], reduce, include_self=False)
            present = torch.zeros(len(level), dtype=torch.bool).index_fill(0, self.group[rows], True)
            levels.append(level.masked_fill(~present, math.nan))
        margin = levels[0] - levels[1]
        mixed = (~(levels[0].isnan() | levels[1].isnan())).nonzero()[:, 0]
        return mixed, margin[mixed]


def _returns(advantages_BT: Tensor, mask_BT: Tensor) -> Tensor:
    if advantages_BT.shape != mask_BT.shape or mask_BT.ndim != 2:
        shapes = f"{tuple(mask_BT.shape)} and {tuple(advantages_BT.shape)}"
        raise ValueError(f"mask_BT and advantages_BT must both be [B, T], got {shapes}")
    mask = mask_BT.bool()
    return torch.where(mask, advantages_BT.detach().double(), 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def _check_samples(returns: Tensor, **per_sample: Tensor | None) -> None:
    for name, tensor in per_sample.items():
        if tensor is not None and tensor.shape != returns.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, but there are {len(returns)} samples")
    outcome = per_sample["outcome_B"]
    if outcome is not None and not ((outcome == CORRECT) | (outcome == INCORRECT) | (outcome == IGNORED)).all():
        raise ValueError("outcome_B must hold 1 (correct), 0 (incorrect) and -1 (unknown) only")


def _ordered(batch: _Batch, group: int, side: int) -> Tensor:
    """Sample indices of one set, the worst offender first."""
    rows = ((batch.group == group) & (batch.set == side)).nonzero()[:, 0]
    return rows[batch.returns[rows].argsort(descending=side == INCORRECT, stable=True)]


def _gather(
    returns: Tensor, sets: Tensor, number: Tensor, process_group: dist.ProcessGroup
) -> tuple[Tensor, Tensor, Tensor, slice]:
    """The samples of all ranks in rank order, and which of them are this rank's; ranks may hold different numbers."""
    world, rank = dist.get_world_size(process_group), dist.get_rank(process_group)
    sizes = [number.new_zeros(1) for _ in range(world)]
    dist.all_gather(sizes, number.new_tensor([len(number)]), group=process_group)
    lengths = [int(size) for size in sizes]
    # float64 travels as its bits beside the integers: one exact tensor, one collective.
    packed = number.new_zeros(3, max(lengths))
    packed[:, : len(number)] = torch.stack([returns.view(torch.int64), sets, number])
    gathered = [torch.empty_like(packed) for _ in range(world)]
    dist.all_gather(gathered, packed, group=process_group)
    rows = torch.cat([table[:, :length] for table, length in zip(gathered, lengths, strict=True)], dim=1)
    start = sum(lengths[:rank])
    return rows[0].contiguous().view(torch.float64), rows[1], rows[2], slice(start, start + lengths[rank])
