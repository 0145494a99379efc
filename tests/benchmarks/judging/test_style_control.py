"""Style features by hand, and the controlled win rate against scikit-learn."""

import math

import numpy as np
import pytest

from lit_uniopd.benchmarks.judging.style_control import controlled_rate, style_differences, style_of


@pytest.mark.parametrize(
    ("answer", "style"),
    [
        ("", (0, 0, 0, 0)),
        ("Two words.", (3, 0, 0, 0)),
        ("# One\n\n## Two\n####### seven\ntext # no", (16, 2, 0, 0)),
        ("1. a\n2. b\n- c\n* d\n+ e\n-f\n 3. g", (17, 0, 6, 0)),
        ("**bold** and __bold__ and * not *", (11, 0, 0, 2)),
        ("```\n# code\n- code\n**x**\n```\n# prose", (17, 1, 0, 0)),
    ],
)
def test_what_counts(answer, style):
    assert style_of(answer) == style


def test_differences_are_in_standard_deviations():
    model = ["a " * 30, "a " * 10, "**b** " + "a " * 20]
    baseline = ["a " * 10, "a " * 10, "a " * 25]
    differences = style_differences(model, baseline)
    lengths = np.array([20 / 40, 0.0, 0.0])  # (a - b) / (a + b); ** are four signs beside 21 words
    assert differences[:, 0] == pytest.approx(lengths / lengths.std(ddof=1))
    density = 1 / 26
    bold = np.array([0.0, 0.0, density / (density + 1)])
    assert differences[:, 3] == pytest.approx(bold / bold.std(ddof=1))
    assert not differences[:, 1:3].any()  # neither side has any


def test_the_rate_is_that_of_a_logistic_regression_without_penalty():
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(5)
    style = rng.normal(size=(120, 4))
    won = (rng.random(120) < 1 / (1 + np.exp(-(0.3 + style @ [1.5, 0.0, -0.4, 0.2])))).astype(float)
    weight = np.where(rng.random(120) < 0.3, 3.0, 1.0)
    rate, coefficients = controlled_rate(won, weight, style)
    theirs = linear_model.LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000)
    theirs.fit(style, won, sample_weight=weight)
    assert rate == pytest.approx(1 / (1 + math.exp(-theirs.intercept_[0])), abs=1e-5)
    assert coefficients == pytest.approx(theirs.coef_[0], abs=1e-4)


def test_wins_by_length_alone_are_taken_out():
    """Every longer answer wins by the same odds: at equal length each wins half of its games."""
    style = np.zeros((400, 4))
    style[:, 0] = np.linspace(-0.5, 2.0, 400)  # longer most of the time
    won = 1 / (1 + np.exp(-2 * style[:, 0]))
    rate, coefficients = controlled_rate(won, np.ones(400), style)
    assert won.mean() > 0.7
    assert rate == pytest.approx(0.5, abs=1e-6)
    assert coefficients[0] == pytest.approx(2.0, abs=1e-5)


def test_one_that_always_wins_has_a_finite_fit():
    rate, coefficients = controlled_rate(np.ones(10), np.ones(10), np.random.default_rng(0).normal(size=(10, 4)))
    assert rate > 0.999
    assert np.isfinite(coefficients).all()
