"""The charts of the laboratories are those that their script draws of the committed tables, and show their numbers."""

import pytest

from benchmarks import svg
from benchmarks.lab import charts

TABLE = """<!-- setting -->

| arm | final | minus plain (95 %) | mean | minus plain (95 %) |
|---|---|---|---|---|
| `opd` | 0.854 (sd 0.114) |  | 0.7 (sd 0.1) |  |
| `worse` | 0.807 (sd 0.107) | **-0.047** ± 0.018 | 0.7 (sd 0.1) | +9.000 ± 9.000 |
| `tied` | 0.861 (sd 0.107) | **+0.007** ± 0.007 | 0.7 (sd 0.1) | +9.000 ± 9.000 |
| `unsure` | 0.9 (sd 0.1) | +0.030 ± 0.051 | 0.7 (sd 0.1) | +9.000 ± 9.000 |

<!-- end setting -->
"""


@pytest.mark.parametrize("name", charts.charts())
def test_the_committed_chart_is_what_the_script_draws(name):
    drawn = str(charts.charts()[name])
    assert (svg.FIGURES / f"{name}.svg").read_text() == drawn, "run `python -m benchmarks.lab.charts`"


def test_cells_are_read_as_the_tables_mean_them():
    table = charts.read_table(TABLE, "setting")
    assert list(table) == ["opd", "worse", "tied", "unsure"]
    column = "minus plain (95 %)"  # the first of that name: final accuracy
    estimates = [charts.difference(table[arm][column]) for arm in ("worse", "tied", "unsure")]
    assert [(e.mean, e.half) for e in estimates] == [(-0.047, 0.018), (0.007, 0.007), (0.03, 0.051)]
    assert [e.colour for e in estimates] == ["bad", "good", "dim"]


def test_the_interval_of_a_spread_by_hand():
    """Five seeds: 2.776 * 2.1 / sqrt(5)."""
    estimate = charts.spread("26.0% (sd 2.1%)")
    assert estimate.mean == 26.0
    assert estimate.half == pytest.approx(2.607, abs=1e-3)


def test_places_on_the_axis():
    drawing, axis = svg.Drawing(100, 100, "one"), svg.Axis(-1, 1, 0, 100)
    charts.forest(drawing, axis, 50, charts.Estimate(0.5, 0.1, sure=True))
    assert '<circle cx="75.0" cy="50.0" r="5" class="good"/>' in drawing.elements
    assert drawing.elements[1].startswith('<line x1="70.0" y1="50.0" x2="80.0" y2="50.0"')


def test_the_quickstarts_numbers_are_those_of_the_fresh_seeds():
    scores, seeds = charts.quickstart()
    assert seeds == ["11", "12", "13"]
    assert (scores["before math"].mean, scores["after code"].mean, scores["teachers code"].mean) == (0.255, 0.997, 1.0)
