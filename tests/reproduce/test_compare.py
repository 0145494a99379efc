"""A run is held against published numbers: hand-made files of a run on both sides of each tolerance."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.reproduce.compare import Curve, Expected, Score, compare, compare_curve, read_curves, table

ROOT = Path(__file__).parents[2]


def test_a_curve_is_judged_at_its_worst_step():
    """Differences .001, .003 and 0; mean .0013."""
    curve = Curve([0.5, 0.6, 0.7], tolerance=0.0031)
    result = compare_curve("train/loss", curve, [0.501, 0.603, 0.7])
    assert (result.expected, result.measured, result.holds) == (0.6, 0.603, True)
    assert result.difference == pytest.approx(0.003)
    assert result.note == "worst of 3 steps: 2; mean 0.0013"
    assert not compare_curve("train/loss", Curve([0.5], tolerance=0.0009), [0.501]).holds


def test_a_relative_tolerance_is_a_share_of_the_published_value():
    curve = Curve([100.0, 200.0], tolerance=0.01, relative=True)
    assert compare_curve("n", curve, [100.9, 201.9]).holds
    assert not compare_curve("n", curve, [101.1, 200.0]).holds


def test_within_the_authors_own_tolerance_is_said():
    curve = Curve([0.5], tolerance=0.01, published=0.001)
    assert "authors' own" in compare_curve("train/loss", curve, [0.5005]).note
    assert "authors' own" not in compare_curve("train/loss", curve, [0.505]).note


def test_a_run_that_ended_early_has_reproduced_nothing():
    result = compare_curve("train/loss", Curve([0.5, 0.6], tolerance=1.0), [0.5])
    assert not result.holds
    assert result.note == "1 steps of 2"


def test_the_columns_of_a_csv_logger_are_curves_and_empty_cells_are_not_there(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,step,train/loss,val/loss\n0,0,0.5,\n0,1,0.25,\n0,1,,0.75\n")
    curves = read_curves(tmp_path / "metrics.csv")
    assert curves["train/loss"] == [0.5, 0.25]
    assert curves["val/loss"] == [0.75]
    assert read_curves(tmp_path / "none.csv") == {}


def test_scores_of_benchmarks_and_of_held_out_prompts_are_found(tmp_path):
    summary = {
        "before": {"math": 0.63},
        "after": None,
        "benchmarks": {"ifeval@greedy": {"scores": {"prompt_strict": 0.7}}},
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    scores = {
        "before/math": Score(0.6, 0.04),
        "after/math": Score(0.7, 0.1),
        "ifeval@greedy/prompt_strict": Score(0.8, 0.05),
    }
    results = compare(Expected("a paper", {}, scores), tmp_path)
    assert [result.holds for result in results] == [True, False, False]
    assert math.isnan(results[1].measured)
    assert [line.split("|")[6].strip() for line in table(results).splitlines()[2:]] == [
        "reproduced",
        "missing",
        "differs",
    ]


def test_what_is_expected_is_what_trl_has_published():
    """The first losses as its authors print them, ln 2 before the first step, and a norm each."""
    curves = Expected.read()["trl_dpo"].curves
    assert [round(loss, 4) for loss in curves["train/loss"].values[:6]] == [
        0.6931,
        0.6879,
        0.6594,
        0.6424,
        0.588,
        0.906,
    ]
    assert curves["train/loss"].values[0] == pytest.approx(math.log(2), abs=1e-6)
    assert len(curves["train/loss"].values) == len(curves["train/grad_norm"].values) == 50


def test_tolerances_of_a_hundred_problems_are_those_of_two_shares():
    """1.96 * sqrt(2 p (1 - p) / 100)."""
    for score in Expected.read()["tuft_self_teacher"].scores.values():
        assert score.tolerance == pytest.approx(1.96 * math.sqrt(2 * score.value * (1 - score.value) / 100), abs=1e-3)


@pytest.mark.slow
def test_the_command_fails_where_a_number_differs(tmp_path):
    losses = Expected.read()["trl_dpo"].curves
    rows = zip(losses["train/loss"].values, losses["train/grad_norm"].values, strict=True)
    lines = ["train/loss,train/grad_norm", *(f"{loss},{norm}" for loss, norm in rows)]
    (tmp_path / "metrics.csv").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "benchmarks.reproduce", "check", "trl_dpo", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("reproduced")) == (0, 2), done.stderr
    lines[7] = f"0.9,{losses['train/grad_norm'].values[6]}"
    (tmp_path / "metrics.csv").write_text("\n".join(lines) + "\n")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "worst of 50 steps: 7" in done.stdout
