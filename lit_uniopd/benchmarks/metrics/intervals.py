"""Bootstrap intervals over problems, of one model or of the difference between two."""

import torch
from torch import Tensor

from lit_uniopd.benchmarks.metrics.statistic import Statistic

RESAMPLES = 1000
Ends = tuple[float, float]


def interval(
    stats_GS: Tensor, statistic: Statistic, *, resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95
) -> dict[str, Ends]:
    """Percentile interval of every score, drawing problems with replacement.

    Args:
        stats_GS: what each of G problems adds to the statistic's S sums.
        statistic: turns sums into scores.
        resamples: number of draws.
        seed: of the draws.
        level: share of the draws inside.

    Returns:
        Score -> (low, high); empty for fewer than two problems.
    """
    if len(stats_GS) < 2:
        return {}
    scores = statistic.scores(resampled_weights(len(stats_GS), resamples, seed) @ stats_GS.double())
    return {name: _ends(values, level) for name, values in scores.items()}


def paired_difference(
    a_GS: Tensor,
    b_GS: Tensor,
    statistic: Statistic,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float, float]]:
    """Difference ``b - a`` of every score on the same problems, with its interval: (difference, low, high).

    The same problems are drawn for both, so what is hard for both cancels out.

    Raises:
        ValueError: if the two do not cover equally many problems.
    """
    if a_GS.shape != b_GS.shape:
        raise ValueError(f"a_GS and b_GS must be of the same problems, not {tuple(a_GS.shape)} and {tuple(b_GS.shape)}")
    scores_a, scores_b = statistic.scores(a_GS.double().sum(dim=0)), statistic.scores(b_GS.double().sum(dim=0))
    differences = {name: float(scores_b[name] - scores_a[name]) for name in scores_a}
    if len(a_GS) < 2:
        return {name: (value, float("nan"), float("nan")) for name, value in differences.items()}
    weights_RG = resampled_weights(len(a_GS), resamples, seed)
    resampled_a, resampled_b = (
        statistic.scores(weights_RG @ a_GS.double()),
        statistic.scores(weights_RG @ b_GS.double()),
    )
    return {name: (value, *_ends(resampled_b[name] - resampled_a[name], level)) for name, value in differences.items()}


def resampled_weights(groups: int, resamples: int, seed: int) -> Tensor:
    """How often each problem is drawn: float64 ``[resamples, groups]``, each row summing to ``groups``."""
    generator = torch.Generator().manual_seed(seed)
    indices_RG = torch.randint(groups, (resamples, groups), generator=generator)
    return torch.zeros(resamples, groups, dtype=torch.float64).scatter_add_(
        1, indices_RG, torch.ones(resamples, groups, dtype=torch.float64)
    )


def _ends(values: Tensor, level: float) -> Ends:
    edge = (1 - level) / 2
    low, high = torch.quantile(values, torch.tensor([edge, 1 - edge], dtype=values.dtype)).tolist()
    return low, high
