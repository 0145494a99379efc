"""Do returns rank right answers above wrong ones to the same prompt?"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lit_uniopd.functional.grouped_returns import CORRECT, IGNORED, INCORRECT, GroupedReturns, check_samples


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


@torch.no_grad()
def order_consistency(returns_B: Tensor, outcome_B: Tensor, group_B: Tensor) -> OrderReport:
    """Whether correct answers return at least as much as incorrect ones to the same prompt (Uni-OPD, App. B.3).

    Args:
        returns_B: See ``grouped_returns.trajectory_returns``.
        outcome_B: 1 correct, 0 incorrect, -1 unknown (left out).
        group_B: Number of each sample's prompt.

    Raises:
        ValueError: if the shapes differ or an outcome is none of 1, 0, -1.

    Example:
        >>> report = order_consistency(torch.tensor([0.5, -0.5, 0.0]), torch.tensor([1, 1, 0]), torch.tensor([7, 7, 7]))
        >>> report.consistent_share, report.inversion_rate  # one of the two correct answers is below the incorrect one
        (0.0, 0.5)
    """
    check_samples(returns_B, outcome_B=outcome_B, group_B=group_B)
    graded = (outcome_B != IGNORED).cpu()
    numbers, group = group_B.cpu()[graded].unique(return_inverse=True)
    sets, returns = outcome_B.cpu().long()[graded], returns_B.detach().cpu().double()[graded]
    batch = GroupedReturns(returns, sets, group, numbers, slice(None))
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
