"""The page of results: each claim is a test of committed numbers, and says no more than its world."""

import math
import re
from pathlib import Path

import pytest
from scipy import stats

from benchmarks.lab import claims, summary_files
from benchmarks.lab.claims import Comparison, Estimate, Outcome, Part
from benchmarks.lab.grid import CONFIGS, Grid

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def tested() -> list[Outcome]:
    return claims.outcomes(claims.read_claims()[1])


PART = Part("Uni-OPD", "a part", "", "", "", ())


def answer(mean: float, half: float, p: float, endpoint: str = "accuracy", equal: float | None = None) -> str:
    comparison = Comparison("uni_opd", "multi_teacher", "shift", "opd", endpoint)
    return Outcome(PART, comparison, Estimate(5, mean, half, p, "", equal_within=equal), p).answer


def test_the_page_is_what_the_script_makes_of_the_committed_summaries(tested):
    worlds, _ = claims.read_claims()
    page = claims.PAGE.read_text()
    for name, text in claims.tables(worlds, tested).items():
        shown = page.split(f"<!-- {name} -->")[1].split(f"<!-- end {name} -->")[0].strip()
        assert shown == text, "run `python -m benchmarks.lab.claims`"


@pytest.mark.parametrize(
    ("mean", "half", "p", "said"),
    [
        (0.1, 0.05, 0.01, "helps"),
        (-0.1, 0.05, 0.01, "costs"),
        (0.1, 0.05, 0.06, "not sure"),
        (0.1, 0.11, 0.07, "no difference shown"),
    ],
)
def test_an_answer_says_no_more_than_the_test(mean, half, p, said):
    assert answer(mean, half, p) == said


def test_fewer_hallucinations_help_and_less_recall_costs():
    assert answer(-0.1, 0.05, 0.01, "chair_i") == "helps"
    assert answer(-0.1, 0.05, 0.01, "recall") == "costs"


def test_equal_is_said_of_a_test_of_equivalence_alone():
    assert answer(0.001, 0.01, 0.01, equal=0.02) == "equal within 0.02"
    assert answer(0.001, 0.03, 0.2, equal=0.02) == "not shown to be equal"


def test_a_tables_interval_gives_its_p_value():
    """Of -0.047 ± 0.028 over five seeds: t = .047 / .028 * 2.776 = 4.66, p = .0096."""
    estimate = claims.from_table(Comparison("uni_opd", "multi_teacher", "online", "opd"))
    assert estimate is not None
    assert (estimate.n, estimate.mean, estimate.half) == (5, -0.047, 0.028)
    assert estimate.p == pytest.approx(0.0096, abs=2e-4)


def test_rows_of_sentinels_table_are_turned_round():
    """Its cells are the other arm minus C-DPO."""
    estimate = claims.from_table(Comparison("sentences", "greedy", "cdpo", "pairs_250", "chair_i"))
    assert estimate is not None
    assert estimate.mean == -0.084
    assert claims.from_table(Comparison("sentences", "greedy", "cdpo", "base", "recall")) is None


def test_before_and_after_are_compared_by_their_spreads():
    """0.9 % (sd 0.7) against 26.0 % (sd 2.1): error .0099, 4.88 degrees of freedom, t of .975 there 2.59."""
    estimate = claims.estimate(Comparison("sentences", "greedy", "cdpo", "base", "chair_i"))
    assert estimate is not None
    assert estimate.mean == pytest.approx(-0.251)
    assert estimate.half == pytest.approx(2.59 * 0.0099, rel=5e-3)
    assert estimate.p < 1e-4
    assert claims.estimate(Comparison("sentences", "greedy", "cdpo", "base", "recall")) is None


def test_kept_runs_go_before_a_table(tmp_path, monkeypatch):
    """Differences .1, .2 and .3: mean .2, half width 4.303 * .1 / sqrt(3)."""
    monkeypatch.setattr(summary_files, "FOLDER", tmp_path)
    finals = {
        ("online", 1): 0.6,
        ("online", 2): 0.7,
        ("online", 3): 0.8,
        ("opd", 1): 0.5,
        ("opd", 2): 0.5,
        ("opd", 3): 0.5,
    }
    rows = [
        {"key": f"{arm}{seed}", "setting": "multi_teacher", "arm": arm, "seed": seed, "final": final}
        for (arm, seed), final in finals.items()
    ]
    comparison = Comparison("uni_opd", "multi_teacher", "online", "opd")
    summary_files.keep("uni_opd", rows)
    estimate = claims.estimate(comparison)
    assert estimate is not None
    assert estimate.mean == pytest.approx(0.2)
    assert estimate.half == pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=1e-3)
    t = 0.2 / (0.1 / math.sqrt(3))
    assert estimate.p == pytest.approx(2 * stats.t.sf(t, 2))
    summary_files.keep("uni_opd", [{**rows[0], "key": "more", "seed": 4}])  # an arm without its pair
    again = claims.estimate(comparison)
    assert again is not None
    assert "table" in again.source


def test_questions_that_were_asked_beforehand_go_before_everything(monkeypatch):
    family = claims.questions.Family.read()
    answers = [([0.01] * 10 + [0.03] * 10, 0.02) for _ in family.questions]
    monkeypatch.setattr(claims.questions, "answers", lambda family, results=None: answers)
    estimate = claims.estimate(Comparison("uni_opd", "multi_teacher", "shift", "opd"))
    assert estimate is not None
    assert (estimate.n, estimate.p, estimate.adjusted, estimate.equal_within) == (20, 0.02, True, 0.02)
    long = claims.estimate(Comparison("uni_opd", "unreliable_long", "shift_2_long", "opd_long"))
    assert long is not None
    assert long.equal_within is None


def test_every_question_has_its_claim():
    _, parts = claims.read_claims()
    compared = {(c.place, c.arm, c.base) for part in parts for c in part.tests if c.laboratory == "uni_opd"}
    family = claims.questions.Family.read()
    assert {(q.setting, q.arm, q.base) for q in family.questions} <= compared
    grids = [Grid.read(), Grid.read(CONFIGS / "narrow_grid.yaml")]
    arms = {(setting, arm) for grid in grids for setting, chosen in grid.settings.items() for arm in chosen["arms"]}
    assert {(setting, arm) for setting, *both in compared for arm in both} <= arms


def test_curves_that_are_to_be_watched_are_logged():
    """As they stand in the code: a tag, or a key of a report."""
    code = "".join(
        p.read_text() for folder in ("lit_uniopd", "callbacks", "datamodules") for p in (ROOT / folder).rglob("*.py")
    )
    for part in claims.read_claims()[1]:
        for name in re.findall(r"`([^`]+)`", part.watch):
            assert name.rpartition("/")[2].removesuffix("_before") in code, name
