"""Statistics of paired differences, one a seed: tests, the seeds that they need, and Holm's correction."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

MOST_SEEDS = 10_000


def interval(differences: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Mean and half width of its interval (Student's t); the half width of a single difference is nan."""
    n = len(differences)
    if n < 2:
        return float(np.mean(differences)), float("nan")
    return float(np.mean(differences)), float(stats.t.ppf((1 + level) / 2, n - 1) * stats.sem(differences))


def p_of_difference(differences: Sequence[float]) -> float:
    """Two-sided: how likely a mean so far from 0 is if there is no difference."""
    return _t_test(differences, 0.0)


def p_of_equivalence(differences: Sequence[float], bound: float) -> float:
    """Two one-sided tests: how likely a mean so far inside (-bound, bound) is if the true one is outside."""
    return max(_t_test(differences, -bound, "greater"), _t_test(differences, bound, "less"))


def _t_test(differences: Sequence[float], mean: float, alternative: str = "two-sided") -> float:
    result: Any = stats.ttest_1samp(differences, mean, alternative=alternative)
    return float(result.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted by Holm's step-down procedure: below alpha where the family's error stays below alpha."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(np.argsort(p_values)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def power_of_difference(seeds: int, sd: float, effect: float, alpha: float) -> float:
    """Of the two-sided paired t-test, if the true difference is ``effect`` and differences scatter by ``sd``."""
    critical, shift = stats.t.ppf(1 - alpha / 2, seeds - 1), effect / sd * seeds**0.5
    beyond = stats.nct.sf(critical, seeds - 1, shift) + stats.nct.cdf(-critical, seeds - 1, shift)
    return float(beyond)


def power_of_equivalence(seeds: int, sd: float, bound: float, alpha: float) -> float:
    """Of the two one-sided tests, if there is no difference; integrated over the scatter that is observed."""
    freedom = seeds - 1
    critical = stats.t.ppf(1 - alpha, freedom)
    chances = (np.arange(2000) + 0.5) / 2000  # of the observed scatter: its quantiles have equal weight
    observed = sd * np.sqrt(stats.chi2.ppf(chances, freedom) / freedom)
    room = bound * seeds**0.5 / sd - critical * observed / sd  # how far the mean may be off, in standard errors
    return float(np.mean(np.where(room > 0, 2 * stats.norm.cdf(room) - 1, 0.0)))


def seeds_needed(sd: float, effect: float, alpha: float, power: float, *, equivalence: bool = False) -> int:
    """The fewest seeds at which a test has the power.

    Args:
        sd: of the paired differences, from pilot seeds.
        effect: smallest difference of interest; of a test of equivalence, its bound.
        alpha: error that is allowed.
        power: share of repetitions in which the test is to come out.
        equivalence: whether no difference is to be shown.
    """
    reached = power_of_equivalence if equivalence else power_of_difference
    return next(n for n in range(2, MOST_SEEDS) if reached(n, sd, effect, alpha) >= power)
