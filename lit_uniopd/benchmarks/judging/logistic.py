"""Logistic regression on probabilities, which both controlled win rates are made of."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
FURTHEST = 30.0
"""Largest coefficient: its odds are 1 to 10^13, so data that are separable have a finite answer."""
STEPS, SWEEPS, HALVINGS = 200, 1000, 40
CLOSE = 1e-10
"""A step no coefficient of which moves further ends the search."""


def sigmoid(logit: Array) -> Array:
    """``1 / (1 + exp(-logit))`` without overflow."""
    return np.exp(-np.logaddexp(0.0, -logit))


def fit_logistic(features_NF: Array, target_N: Array, weight_N: Array, *, l1: float = 0.0) -> Array:
    """Coefficients that make ``sigmoid(features @ coefficients)`` most likely.

    Minimises the weighted cross-entropy, a sum over rows, plus ``l1`` times the sum of absolute coefficients, by
    Newton steps whose penalised quadratic is solved coordinate by coordinate. There is no other intercept than a
    feature that is 1.

    Args:
        features_NF: one row per observation.
        target_N: probabilities in [0, 1].
        weight_N: of the observations, 0 or more.
        l1: strength of the penalty.

    Example:
        >>> x = fit_logistic(np.ones((4, 1)), np.array([1.0, 1.0, 1.0, 0.0]), np.ones(4))
        >>> round(float(sigmoid(x)[0]), 6)  # nothing but the mean to learn
        0.75
    """

    def loss(coefficients: Array) -> float:
        logit_N = features_NF @ coefficients
        cost_N = target_N * np.logaddexp(0.0, -logit_N) + (1 - target_N) * np.logaddexp(0.0, logit_N)
        return float(weight_N @ cost_N) + l1 * float(np.abs(coefficients).sum())

    current = np.zeros(features_NF.shape[1])
    value = loss(current)
    for _ in range(STEPS):
        likely_N = sigmoid(features_NF @ current)
        slope_F = features_NF.T @ (weight_N * (likely_N - target_N))
        curvature_FF = (features_NF.T * (weight_N * likely_N * (1 - likely_N))) @ features_NF
        step = _lowest_quadratic(current, slope_F, curvature_FF, l1) - current
        promised = float(slope_F @ step) + l1 * float(np.abs(current + step).sum() - np.abs(current).sum())
        for halving in range(HALVINGS):
            length = 0.5**halving
            if (lower := loss(current + length * step)) <= value + 1e-4 * length * promised:
                break
        else:  # rounding is all that is left
            return current
        current, value = current + length * step, lower
        if np.abs(length * step).max() < CLOSE:
            return current
    return current


def _lowest_quadratic(start: Array, slope_F: Array, curvature_FF: Array, l1: float) -> Array:
    """Where slope and curvature at ``start``, with the penalty, are lowest."""
    point = start.copy()
    for _ in range(SWEEPS):
        before = point.copy()
        for j in range(len(point)):
            bend = max(curvature_FF[j, j], 1e-12)
            free = point[j] - (slope_F[j] + curvature_FF[j] @ (point - start)) / bend
            shrunk = np.sign(free) * max(abs(free) - l1 / bend, 0.0)
            point[j] = min(max(shrunk, -FURTHEST), FURTHEST)
        if np.abs(point - before).max() < CLOSE / 10:
            break
    return point
