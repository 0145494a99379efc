"""AlpacaEval's length-controlled win rate (Dubois et al. 2024, arXiv 2404.04475): what it would be at equal length.

A logistic regression explains the judge's preferences by the difference in length, how hard the instruction is, and
the model; the rate is its mean prediction with the difference in length set to 0. As in the package alpaca_eval 0.6.6
(``metrics/glm_winrate.py``), whose folds and penalties are followed; the fit itself is exact here.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lit_uniopd.benchmarks.judging.logistic import Array, fit_logistic, sigmoid
from lit_uniopd.errors import UserError

FOLDS = 5
PENALTIES = np.logspace(-4, 4, 10)
"""Strengths of the data against the penalty, of which cross-validation takes one: scikit-learn's."""
GAMED_WEIGHT = 0.2 / 2
"""Of a row of the two baselines of other lengths: they are regularisation."""
COLUMNS = ("index", "preference", "std_delta_len", "instruction_difficulty")


@dataclass(frozen=True, slots=True)
class GamedBaselines:
    """Preferences for two baselines that were made longer and shorter, and how hard each instruction is."""

    index_M: Array
    """Row of the benchmark, from 0."""
    preference_M: Array
    delta_M: Array
    """Difference in length, already in units of its standard deviation."""
    difficulty_M: Array

    def difficulty_of(self, rows: Sequence[int]) -> Array:
        """How hard the instructions of rows are.

        Raises:
            UserError: if one is not there.
        """
        first: dict[int, float] = {}
        for index, difficulty in zip(self.index_M.tolist(), self.difficulty_M.tolist(), strict=True):
            first.setdefault(int(index), difficulty)
        if missing := [row for row in rows if row not in first]:
            raise UserError(
                f"--length_control knows no instruction {missing[0]} (it has {len(first)}); give the file of the same "
                "instructions, or leave it out."
            )
        return np.array([first[row] for row in rows])


def read_gamed(path: Path) -> GamedBaselines:
    """The file ``df_gamed.csv`` of the data set tatsu-lab/alpaca_eval, or one like it.

    Raises:
        UserError: if it cannot be read, or a column is missing.
    """
    if not path.is_file():
        raise UserError(f"--length_control {path} is no file; give df_gamed.csv of the data set tatsu-lab/alpaca_eval.")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows, names = list(reader), reader.fieldnames or ()
    if missing := [name for name in COLUMNS if name not in names]:
        raise UserError(
            f"--length_control {path} has no column {missing[0]!r} (it has {', '.join(names)}); give df_gamed.csv of "
            "the data set tatsu-lab/alpaca_eval."
        )
    try:
        columns = [np.array([float(row[name] or "nan") for row in rows]) for name in COLUMNS]
    except ValueError as error:
        raise UserError(f"--length_control {path} holds something else than numbers ({error}); mend it.") from error
    return GamedBaselines(*columns)


@dataclass(frozen=True, slots=True)
class LengthControlled:
    """The rate and how it was made."""

    rate: float
    standard_error: float
    """Of the mean of the predictions, as AlpacaEval gives it; the fit's own uncertainty is not in it."""
    length_coefficient: float
    """Positive: the judge likes the baseline better where it is longer."""
    formula: str
    """AlpacaEval's name of it: ``length_controlled_v1 | length_controlled_minimal``."""
    resampled_R: Array
    """The rate where rows are drawn anew, with the penalty of the first fit."""


def length_controlled(
    preference_N: Array,
    model_length_N: Array,
    baseline_length_N: Array,
    rows: Sequence[int],
    gamed: GamedBaselines | None,
    draws_RN: Array,
) -> LengthControlled | None:
    """The length-controlled win rate.

    Args:
        preference_N: for the model, in [0, 1]; NaN: none, which is not fitted and still predicted.
        model_length_N: characters of its answers.
        baseline_length_N: of the baseline's.
        rows: number of each row in the benchmark.
        gamed: the official data. None: without them, and without the instructions' difficulty, which is AlpacaEval's
            ``length_controlled_minimal`` and not the rate of its leaderboard.
        draws_RN: how often each row is drawn, for the interval.

    Returns:
        None with fewer preferences than folds.
    """
    if (~np.isnan(preference_N)).sum() < FOLDS:
        return None
    delta_N = baseline_length_N - model_length_N
    spread = delta_N.std(ddof=1)
    length_N = np.tanh(delta_N / spread) if spread > 0 else np.zeros(len(delta_N))
    features, target, weight = np.stack([length_N, np.ones(len(length_N))], axis=1), preference_N, np.ones(len(delta_N))
    if gamed is not None:
        features = np.concatenate([features, gamed.difficulty_of(rows)[:, None]], axis=1)
        others = np.stack([np.tanh(gamed.delta_M), np.zeros(len(gamed.delta_M)), gamed.difficulty_M], axis=1)
        features, target = np.concatenate([others, features]), np.concatenate([gamed.preference_M, target])
        weight = np.concatenate([np.full(len(others), GAMED_WEIGHT), weight])
    at_equal_length = features[len(features) - len(delta_N) :] * (np.arange(features.shape[1]) > 0)
    fitted = ~np.isnan(target)
    features, target, weight = features[fitted], target[fitted], weight[fitted]
    penalty = 1 / _chosen_strength(features, target, weight)
    coefficients = fit_logistic(features, target, weight, l1=penalty)
    predicted = sigmoid(at_equal_length @ coefficients)
    resampled = []
    for draws_N in draws_RN:
        drawn = np.concatenate([np.ones(len(fitted) - len(draws_N)), draws_N])
        again = fit_logistic(features, target, weight * drawn[fitted], l1=penalty)
        resampled.append(draws_N @ sigmoid(at_equal_length @ again) / draws_N.sum())
    return LengthControlled(
        rate=float(predicted.mean()),
        standard_error=float(predicted.std(ddof=1) / np.sqrt(len(predicted))),
        length_coefficient=float(coefficients[0]),
        formula="length_controlled_minimal" if gamed is None else "length_controlled_v1",
        resampled_R=np.array(resampled),
    )


def _chosen_strength(features: Array, target: Array, weight: Array) -> float:
    """The strength with the lowest weighted loss on the rows that were left out, the weakest of equal ones."""
    fold = np.arange(len(target))[::-1] % FOLDS
    losses = np.zeros(len(PENALTIES))
    for number in range(FOLDS):
        train, test = fold != number, fold == number
        for i, strength in enumerate(PENALTIES):
            coefficients = fit_logistic(features[train], target[train], weight[train], l1=1 / strength)
            likely = np.clip(sigmoid(features[test] @ coefficients), 1e-15, 1 - 1e-15)
            cost = -(target[test] * np.log(likely) + (1 - target[test]) * np.log(1 - likely))
            losses[i] += float((weight[test] * cost).mean())
    return float(PENALTIES[losses.argmin()])
