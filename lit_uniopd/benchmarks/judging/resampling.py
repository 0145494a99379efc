"""Bootstrap over questions: weights of draws, and means under them.

R draws, N rows, K values per draw.
"""

from collections.abc import Sequence

import numpy as np

from lit_uniopd.benchmarks.judging.judged_rows import JudgedRow
from lit_uniopd.benchmarks.judging.logistic import Array
from lit_uniopd.benchmarks.metrics.intervals import resampled_weights


def draws(rows: Sequence[JudgedRow], resamples: int) -> Array:
    """How often each row is drawn, ``[R, N]``: questions are, with all their answers."""
    names = {name: i for i, name in enumerate(dict.fromkeys(row.sample_id for row in rows))}
    draws_RG = resampled_weights(len(names), resamples, seed=0).numpy()
    return draws_RG[:, [names[row.sample_id] for row in rows]]


def means(values: Array, draws_RN: Array) -> Array:
    """Weighted means; draws without any value are left out."""
    sums = draws_RN.sum(axis=1)
    return (draws_RN @ values)[sums > 0] / sums[sums > 0]


def ratio(part: Array, whole: Array) -> Array:
    """Quotients; NaN where the whole is 0."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def known_mean(values_RK: Array) -> Array:
    """Mean of those that are there, in each row."""
    known_RK = ~np.isnan(values_RK)
    return ratio(np.where(known_RK, values_RK, 0.0).sum(axis=1), known_RK.sum(axis=1).astype(np.float64))


def ends(values: Array) -> tuple[float, float]:
    """Of the 95 % percentile interval of draws ``[R]``."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
