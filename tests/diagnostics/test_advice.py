"""What a run is told of its own numbers, on both sides of each threshold, and where the thresholds come from."""

from pathlib import Path
from statistics import fmean

import pytest
import torch

from benchmarks.lab.charts import read_table
from benchmarks.lab.pair_grid import SETTINGS, TABLES, TIED
from benchmarks.lab.pairs import make_pairs
from benchmarks.lab.questions import Family, read_summaries
from lit_uniopd.diagnostics import advice
from lit_uniopd.diagnostics.advice import (
    OrderTotals,
    balancing_advice,
    calibration_advice,
    groups_advice,
    quality_advice,
    sentence_advice,
)
from lit_uniopd.diagnostics.preferences import effective_share
from lit_uniopd.functional.preference import quality_weights
from lit_uniopd.types import Prompt

DOCS = Path(__file__).parents[2] / "docs"


def totals(rollouts: list[dict[str, float]], *, groups: int = 200, removed: float = 0.0) -> OrderTotals:
    result = OrderTotals()
    for logged in rollouts:
        result.add(logged, groups=groups, removed=removed)
    return result


def test_calibration_has_nothing_to_do_up_to_the_threshold_and_something_above():
    assert "12% of the graded pairs are misordered; it would change (almost) nothing here" in calibration_advice(
        0.12, calibrates=False
    )
    assert "MarginCalibration would act on them" in calibration_advice(0.13, calibrates=False)
    assert "can be left out" in calibration_advice(0.12, calibrates=True)
    assert calibration_advice(0.13, calibrates=True) == ""


def test_groups_of_one_outcome_are_told_of_where_they_are_most():
    assert groups_advice(advice.MIXED_ENOUGH) == ""
    assert "to 60% of the prompts are all right or all wrong" in groups_advice(0.4)


def test_what_balancing_leaves_out_is_told_of_where_it_is_as_much_as_in_the_laboratory():
    assert balancing_advice(advice.REMOVED_AT_A_LOSS - 0.01) == ""
    assert "30% of the answers were left out" in balancing_advice(0.3)


def test_a_runs_numbers_are_means_over_its_rollouts():
    """(.1 + .3) / 2 and (.9 + .7 + .2) / 3; a rollout without a mixed group has no pairs."""
    rollouts = [
        {"order/mixed": 0.9, "order/inversions_before": 0.1},
        {"order/mixed": 0.7, "order/inversions_before": 0.3},
        {"order/mixed": 0.2},
    ]
    (line,) = totals(rollouts).advice(calibrates=False)
    assert line.startswith("calibration: 20% of the graded pairs")


def test_nothing_is_said_before_enough_was_seen():
    logged = [{"order/mixed": 0.1, "order/inversions_before": 0.0}]
    assert totals(logged, groups=advice.ENOUGH - 1).advice(calibrates=False) == []
    assert len(totals(logged, groups=advice.ENOUGH, removed=0.5).advice(calibrates=False)) == 3


def test_a_quality_weight_that_changes_little_is_named():
    assert quality_advice(advice.QUALITY_ALIKE - 0.01, 100) == ""
    assert quality_advice(0.981, 99) == ""
    assert quality_advice(0.981, 100).startswith(
        "quality weight: the pairs weigh almost the same (effective share 98%)"
    )


def test_few_sentence_pairs_are_counted_up_to_as_many_as_the_laboratory_needed():
    """40 pairs of 100 pictures: 2500 pictures make 1000."""
    report = {"pairs": 40, "pictures": 100, "candidates": {"factual_context_coherent": 0.9, "hallucinated": 0.07}}
    line = sentence_advice(report)
    assert "reject 7% of the sentences, and 100 pictures make 40 pairs; at this rate 2500 pictures make 1000" in line
    assert sentence_advice({**report, "pairs": 1000}) == ""
    assert "at this rate" not in sentence_advice({**report, "pairs": 0})


# --- where the thresholds come from ---


def inversions(setting: str, arm: str) -> float:
    return float(read_table((DOCS / "laboratory.md").read_text(), setting)[arm]["inversions"].rstrip("%")) / 100


def test_thresholds_of_inversions_are_the_laboratorys(monkeypatch):
    """Plain distillation's, where calibration changed nothing, and where it gained."""
    monkeypatch.chdir(DOCS.parent)  # where configs are
    quiet = ("multi_teacher", "strong_to_weak", "cross_modal", "out_of_distribution")
    assert max(inversions(setting, "opd") for setting in quiet) == advice.INVERSIONS_WITHOUT_GAIN
    assert inversions("unreliable", "opd") == advice.INVERSIONS_WITHOUT_LONG_TRAINING
    narrow = read_summaries(Family.read("narrow_questions"))["narrow", "opd"].values()
    misordered = fmean(run["order/inversions_before"] for run in narrow)
    assert (round(misordered, 2), inversions("unreliable", "opd_long")) == advice.INVERSIONS_WITH_GAIN


def test_quality_weights_of_the_laboratorys_pairs_are_as_even():
    """Its 2000 prompts have a right and four wrong answers, as tests/lab/test_pairs.py has them."""
    prompts = [Prompt(id=str(i), messages=({"role": "user", "content": f"{i}"},)) for i in range(2000)]
    answers = [[("yes", True), ("no", False), ("never", False), ("no", False), ("nowhere", False)]] * len(prompts)
    for setting in TABLES:
        pairs = make_pairs(prompts, answers, SETTINGS[setting], TIED, seed=1)
        high, low = (torch.tensor([pair[f"score_{side}"] for pair in pairs]) for side in ("chosen", "rejected"))
        share = effective_share(quality_weights(high, low, eta=0.7))
        assert share == pytest.approx(0.97, abs=0.01)
        assert share >= advice.QUALITY_ALIKE


def test_what_so_many_pairs_removed_is_the_laboratorys():
    table = read_table((DOCS / "sentinel_laboratory.md").read_text(), "greedy")
    arms = {"250": "pairs_250", "1000": "pairs_1000", "2700": "cdpo"}
    said = sentence_advice({"pairs": 1, "pictures": 1, "candidates": {}})
    for pairs, arm in arms.items():
        assert f"{pairs} pairs removed {table[arm]['fewer']}" in said or f"{pairs} {table[arm]['fewer']}" in said
    assert int(table["pairs_1000"]["pairs"]) == advice.PAIRS_ENOUGH
