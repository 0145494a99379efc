"""The length-controlled win rate against alpaca_eval 0.6.6."""

import csv
from pathlib import Path

import numpy as np
import pytest

from lit_uniopd.benchmarks.judging.length_control import LengthControlled, length_controlled, read_gamed
from lit_uniopd.benchmarks.judging.logistic import fit_logistic, sigmoid
from lit_uniopd.errors import UserError

CASES = {0: (805, -1.0), 1: (200, 0.5), 2: (60, 0.0), 3: (805, 2.5), 4: (805, -3.0), 5: (300, 0.0)}
"""Seed -> rows and how good the model is; 1 and 5 have preferences of 0 and 1, 2 has some without."""
OFFICIAL = {
    (0, "v1"): (33.58705863211592, 0.4619610500749592),
    (0, "minimal"): (33.52140727342673, 0.0),
    (1, "v1"): (58.599995765578385, 1.1232933874290105),
    (1, "minimal"): (58.26356473486046, 0.0),
    (2, "v1"): (47.90635280063606, 1.3408992127704333),
    (2, "minimal"): (50.0, 0.0),
    (3, "v1"): (85.15634471005144, 0.27712857184147943),
    (3, "minimal"): (85.23457552192204, 0.0),
    (4, "v1"): (11.170073109362852, 0.22894104820276917),
    (4, "minimal"): (10.930099149377348, 0.0),
    (5, "v1"): (52.94485530458236, 0.9342366174718427),
    (5, "minimal"): (52.92593350861657, 0.0),
}
"""`length_controlled_winrate` and `lc_standard_error`, in percent, of alpaca_eval 0.6.6 with scikit-learn 1.9.1."""


def case(seed: int, directory: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, Path]:
    """Preferences, both lengths, and a file of gamed baselines, all drawn; the judge likes length and easy rows."""
    n, shift = CASES[seed]
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(0, 1, n)

    def preferences(shift: float, delta: np.ndarray) -> np.ndarray:
        logit = 1.2 * np.tanh(delta) + 0.8 * difficulty + shift
        return 1 / (1 + np.exp(-logit - rng.normal(0, 1.5, n)))

    path = directory / "df_gamed.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["preference", "index", "std_delta_len", "instruction_difficulty", "not_gamed_baseline", "model"]
        )
        for number, mean in enumerate((0.9, -0.8)):
            delta = rng.normal(mean, 0.5, n)
            for i, preference in enumerate(preferences(0.0, -delta)):
                writer.writerow([preference, i, delta[i], difficulty[i], False, f"gamed{number}"])
    baseline = rng.integers(200, 3000, n)
    model = (baseline * rng.uniform(0.5, 1.9, n)).astype(int)
    preference = preferences(shift, -(baseline - model) / np.std(baseline - model, ddof=1))
    if seed in (1, 5):
        preference = (preference > 0.5).astype(float)
    unread = rng.random(n) < (0.05 if seed == 2 else 0)
    return np.where(unread, np.nan, preference), model, baseline, path


def controlled(seed: int, kind: str, directory: Path, draws: int = 0) -> LengthControlled:
    preference, model, baseline, path = case(seed, directory)
    gamed = read_gamed(path) if kind == "v1" else None
    weights = (
        np.random.default_rng(9).multinomial(len(model), np.full(len(model), 1 / len(model)), size=draws).astype(float)
    )
    result = length_controlled(
        preference, model.astype(float), baseline.astype(float), range(len(model)), gamed, weights
    )
    assert result is not None
    assert result.formula == f"length_controlled_{kind}"
    return result


@pytest.mark.parametrize(("seed", "kind"), OFFICIAL)
def test_the_rate_is_that_of_alpaca_eval(seed, kind, tmp_path):
    """As near as liblinear's tolerance, by which its own rates move, lets it be."""
    rate, error = OFFICIAL[seed, kind]
    result = controlled(seed, kind, tmp_path)
    assert 100 * result.rate == pytest.approx(rate, abs=0.06)
    assert 100 * result.standard_error == pytest.approx(error, abs=0.003)


@pytest.mark.filterwarnings("ignore")  # scikit-learn's, of options that it calls by older names
@pytest.mark.parametrize(("seed", "kind"), [(0, "v1"), (2, "v1"), (5, "minimal")])
def test_the_rate_is_that_of_the_installed_alpaca_eval(seed, kind, tmp_path, monkeypatch):
    glm = pytest.importorskip("alpaca_eval.metrics.glm_winrate")
    pandas, sklearn = pytest.importorskip("pandas"), pytest.importorskip("sklearn")
    preference, model, baseline, path = case(seed, tmp_path)
    outputs = {f"output_{i}": ["x" * n for n in lengths] for i, lengths in enumerate((baseline, model), 1)}
    names = {"generator_1": "base", "generator_2": "ours", "annotator": "judge", "index": range(len(model))}
    table = pandas.DataFrame({"preference": preference + 1, **outputs, **names}).set_index("index")
    monkeypatch.setattr(glm, "hf_hub_download", lambda **_: str(path))
    with sklearn.config_context():  # it sets an option for the whole process
        theirs = glm.get_length_controlled_winrate(
            table, glm_name=f"length_controlled_{kind}", save_weights_dir=None, is_add_glm_preference_inplace=False
        )
    assert 100 * controlled(seed, kind, tmp_path).rate == pytest.approx(theirs["length_controlled_winrate"], abs=0.06)


def test_a_judge_that_likes_length_alone_finds_equals_equal():
    """By hand: the preference is the sigmoid of the tanh of the difference, so that without it all are at 0.5."""
    lengths = np.array([100.0, 300.0, 500.0, 900.0, 200.0, 400.0, 800.0, 700.0, 650.0, 120.0] * 20)
    baseline = np.full(len(lengths), 300.0)
    tanh = np.tanh((baseline - lengths) / (baseline - lengths).std(ddof=1))
    preference = 1 / (1 + np.exp(3 * tanh))
    assert preference.mean() > 0.6
    result = length_controlled(preference, lengths, baseline, range(len(lengths)), None, np.ones((0, len(lengths))))
    assert result is not None
    assert result.rate == pytest.approx(0.5, abs=0.002)
    assert result.length_coefficient == pytest.approx(-3.0, abs=0.05)


def test_drawing_all_rows_once_gives_the_rate_and_others_spread_around_it(tmp_path):
    preference, model, baseline, path = case(1, tmp_path)
    once = np.ones((1, len(model)))
    result = length_controlled(preference, model * 1.0, baseline * 1.0, range(len(model)), read_gamed(path), once)
    assert result is not None
    assert result.resampled_R == pytest.approx([result.rate], abs=1e-8)
    drawn = controlled(1, "v1", tmp_path, draws=60).resampled_R
    assert 0.01 < drawn.std() < 0.06  # 200 preferences of 0 and 1: about sqrt(.25 / 200) = 0.035
    assert abs(drawn.mean() - result.rate) < 0.02


def test_equal_lengths_and_few_rows():
    lengths = np.full(20, 100.0)
    preference = np.array([1.0, 0.0, 1.0, 1.0] * 5)
    result = length_controlled(preference, lengths, lengths, range(20), None, np.ones((0, 20)))
    assert result is not None
    assert result.length_coefficient == 0.0
    assert 0.6 < result.rate < 0.75  # the win rate of 0.75, shrunk
    few = np.where(np.arange(20) < 4, preference, np.nan)
    assert length_controlled(few, lengths, lengths, range(20), None, np.ones((0, 20))) is None


def test_a_file_without_a_column_or_an_instruction_is_named(tmp_path):
    path = case(2, tmp_path)[-1]
    with pytest.raises(UserError, match="knows no instruction 60 "):
        read_gamed(path).difficulty_of([3, 60])
    path.write_text("index,preference\n0,1\n")
    with pytest.raises(UserError, match="has no column 'std_delta_len' "):
        read_gamed(path)
    path.write_text("index,preference,std_delta_len,instruction_difficulty\n0,1,x,2\n")
    with pytest.raises(UserError, match="something else than numbers"):
        read_gamed(path)
    with pytest.raises(UserError, match="is no file"):
        read_gamed(tmp_path / "none.csv")


def test_the_fit_is_the_lowest_point():
    """Its slope is 0, or within the penalty where a coefficient is 0; scikit-learn finds the same."""
    rng = np.random.default_rng(3)
    features, target, weight = rng.normal(size=(80, 3)), rng.random(80), rng.random(80)
    target = np.clip(target + 0.3 * features[:, 0], 0, 1)
    for l1 in (0.0, 0.7, 3.0):
        found = fit_logistic(features, target, weight, l1=l1)
        slope = features.T @ (weight * (sigmoid(features @ found) - target))
        for s, c in zip(slope, found, strict=True):
            assert s == pytest.approx(-l1 * np.sign(c), abs=1e-6) if c else abs(s) <= l1 + 1e-6
    certain = fit_logistic(np.ones((3, 1)), np.ones(3), np.ones(3))
    assert 20 < certain[0] <= 30  # not infinite
