"""Primary questions: the statistics against known values and simulation, and the page's table from the kept summaries."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.lab import paired_tests, questions
from benchmarks.lab.grid import Grid
from benchmarks.lab.questions import Family, Question
from benchmarks.lab.run import groups_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("effect", "seeds"), [(0.3, 90), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_seeds_of_a_paired_test_are_those_of_the_tables(effect, seeds):
    """Cohen's table, alpha .05 two-sided, power .8."""
    assert paired_tests.seeds_needed(1.0, effect, 0.05, 0.8) == seeds
    assert paired_tests.seeds_needed(0.1, effect / 10, 0.05, 0.8) == seeds


@pytest.mark.parametrize(("seeds", "bound", "alpha"), [(10, 1.0, 0.05), (36, 0.5, 0.05), (20, 0.6, 0.01)])
def test_power_of_equivalence_is_what_simulated_runs_have(seeds, bound, alpha):
    draws = np.random.default_rng(0).standard_normal((20_000, seeds))
    mean, error = draws.mean(1), draws.std(1, ddof=1) / seeds**0.5
    critical = stats.t.ppf(1 - alpha, seeds - 1)
    simulated = np.mean(((mean + bound) / error > critical) & ((bound - mean) / error > critical))
    assert paired_tests.power_of_equivalence(seeds, 1.0, bound, alpha) == pytest.approx(simulated, abs=4 * 0.0035)


def test_two_one_sided_tests_by_hand():
    differences = [0.01, -0.01, 0.02, 0.0, 0.005]
    mean, error = np.mean(differences), np.std(differences, ddof=1) / 5**0.5
    upper = stats.t.cdf((mean - 0.03) / error, 4)
    lower = stats.t.sf((mean + 0.03) / error, 4)
    assert paired_tests.p_of_equivalence(differences, 0.03) == pytest.approx(max(upper, lower), rel=1e-12)
    assert paired_tests.p_of_equivalence(differences, 0.004) > 0.5  # the mean itself is outside
    half = 2.776 * error
    assert paired_tests.interval(differences) == (pytest.approx(mean), pytest.approx(half, rel=1e-3))


def test_holm_by_hand():
    """Smallest first: 4 x .005, 3 x .01, 2 x .03, then .04, which may not be below the one before."""
    assert paired_tests.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired_tests.holm([0.6, 0.7]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("name", "arms"),
    [("questions", 7), ("self_teacher_questions", 6), ("preference_questions", 13), ("narrow_questions", 10)],
)
def test_seeds_are_enough_and_no_pilots(name, arms):
    family = Family.read(name)
    assert max(map(family.needed, family.questions)) <= len(family.seeds)
    assert not set(family.seeds) & set(family.grid.seeds)
    assert len({cell.key for cell in family.cells()}) == arms * len(family.seeds)


def test_models_and_counts_are_prepared_where_they_are_used():
    cells = Family.read().cells()
    (all_of_it,) = {(g.student, g.models, g.counted) for g in groups_of(cells, Grid.read())}
    assert set(all_of_it[1]) == {
        "student",
        *(f"{kind}{d}_teacher" for kind in ("", "unreliable_") for d in ("math", "code")),
    }
    plain = [cell for cell in cells if cell.arm == "opd" and cell.seed == 101]
    (group,) = groups_of(plain, Grid.read())
    assert group.models == ("code_teacher", "math_teacher", "student")
    assert not group.counted


def rows(setting: str, arm: str, values: list[float]) -> dict[tuple[str, str], dict[int, dict[str, float]]]:
    return {(setting, arm): {seed: {"final": value} for seed, value in enumerate(values)}}


def test_answers_need_all_seeds_and_say_no_more_than_the_test():
    ask = [
        Question("more?", "s", "better", "plain", effect=0.05, pilot_sd=0.01),
        Question("same?", "s", "same", "plain", effect=0.02, pilot_sd=0.01, equivalence=True),
        Question("any?", "s", "noisy", "plain", effect=0.02, pilot_sd=0.01),
    ]
    family = Family("made", Path("page.md"), Grid.read(), [0, 1, 2, 3, 4, 5], 0.05, 0.8, ask)
    plain = [0.5, 0.6, 0.7, 0.5, 0.6, 0.7]
    jitter = [0.001, -0.001, 0.002, -0.002, 0.0, 0.001]
    results = (
        rows("s", "plain", plain)
        | rows("s", "better", [a + 0.1 + b for a, b in zip(plain, jitter, strict=True)])
        | rows("s", "same", [a + b for a, b in zip(plain, jitter, strict=True)])
        | rows("s", "noisy", [a + 100 * b for a, b in zip(plain, jitter, strict=True)])
    )
    lines = questions.table(family, results).splitlines()[2:]
    assert [line.split(" | ")[-1].strip(" |") for line in lines] == ["more", "equal", "no difference shown"]
    assert "+0.100 ± 0.002" in lines[0]
    del results["s", "same"][5]
    lines = questions.table(family, results).splitlines()[2:]
    assert all("not run to the end" in line for line in lines)
    assert "5 of 6" in lines[1]


@pytest.mark.parametrize("name", questions.FAMILIES)
def test_the_tables_of_a_page_are_those_of_the_kept_summaries(name):
    family = Family.read(name)
    shown = (ROOT / family.page).read_text().split(f"<!-- {name} -->")[1].split(f"<!-- end {name} -->")[0].strip()
    assert shown == questions.tables(family, questions.read_summaries(family))


def test_the_pilot_of_the_self_teacher_is_that_of_the_kept_summaries_and_gave_its_spreads():
    family = Family.read("self_teacher_questions")
    pilot = questions.read_summaries(family, pilot=True)
    text = (ROOT / family.page).read_text().split("<!-- self_teacher_questions pilot -->")[1]
    assert text.split("<!-- end")[0].strip() == questions.arms_table(family, pilot)
    for question in family.questions:
        differences = [
            pilot[question.setting, question.arm][seed]["final"] - pilot[question.setting, question.base][seed]["final"]
            for seed in family.grid.seeds
        ]
        assert question.pilot_sd == pytest.approx(np.std(differences, ddof=1), abs=5e-5)


def test_arms_show_what_answers_were_like_at_the_end():
    results = {
        ("s", "long"): {
            1: {"final": 0.5, "train/entropy": 0.25, "rollout/length": 12.0},
            2: {"final": 0.7, "train/entropy": 0.75, "rollout/length": 13.0},
        }
    }
    family = Family.read()
    assert questions.arms_table(family, results).splitlines() == [
        "| setting | arm | seeds | final accuracy | entropy | tokens an answer |",
        "|---|---|---|---|---|---|",
        "| s | `long` | 2 | 0.600 (sd 0.141) | 0.5 | 12.5 |",
    ]
    assert not questions.arms_table(family, {})
