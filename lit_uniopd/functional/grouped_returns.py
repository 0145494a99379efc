"""The returns of answers, with their groups and outcomes: for whatever compares right answers with wrong ones.

Statistics are taken in float64 on the CPU from the samples of all ranks, so it does not matter how a batch is split.
"""

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from lit_uniopd.functional.projection import math_dtype

CORRECT, INCORRECT, IGNORED = 1, 0, -1
"""Which set a sample is in; the first two as in ``outcome_B``."""


def trajectory_returns(advantages_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean advantage ``[B]`` over the response tokens; 0 for an empty response.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> trajectory_returns(torch.tensor([[0.5, -1.5, 9.0]]), torch.tensor([[True, True, False]]))
        tensor([-0.5000])
    """
    return _returns(advantages_BT, mask_BT).to(math_dtype(advantages_BT))


@dataclass(frozen=True, slots=True)
class GroupedReturns:
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
    ) -> "GroupedReturns":
        if scope not in ("group", "global"):
            raise ValueError(f"scope must be 'group' or 'global', got {scope!r}")
        returns = _returns(advantages, mask)
        check_samples(returns, outcome_B=outcome, group_B=group, include_B=include)
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


def check_samples(returns: Tensor, **per_sample: Tensor | None) -> None:
    """Refuse what has another number of samples, and outcomes that are none.

    Raises:
        ValueError: naming what is wrong.

    Example:
        >>> check_samples(torch.zeros(2), outcome_B=torch.tensor([1, 3]))
        Traceback (most recent call last):
        ValueError: outcome_B must hold 1 (correct), 0 (incorrect) and -1 (unknown) only
    """
    for name, tensor in per_sample.items():
        if tensor is not None and tensor.shape != returns.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, but there are {len(returns)} samples")
    outcome = per_sample["outcome_B"]
    if outcome is not None and not ((outcome == CORRECT) | (outcome == INCORRECT) | (outcome == IGNORED)).all():
        raise ValueError("outcome_B must hold 1 (correct), 0 (incorrect) and -1 (unknown) only")


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
