"""One chart a laboratory, of the tables that its page holds, into docs/figures.

    python -m benchmarks.lab.charts

Runs are not needed: the tables are the committed summaries. Green and red are differences whose 95 % interval leaves
out 0; in SENTINEL's red is an arm that is surely worse than C-DPO.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import t as student_t

from benchmarks.svg import Axis, Drawing, write

DOCS = Path(__file__).parents[2] / "docs"
SEEDS = 5


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and the half width of its 95 % interval."""

    mean: float
    half: float = 0.0
    """0 where a table has none."""
    sure: bool = False
    """The interval leaves out 0, before it was rounded: the table has it in bold."""

    @property
    def colour(self) -> str:
        """Good above 0, bad below it, dim where it may be either."""
        return "dim" if not self.sure else "good" if self.mean > 0 else "bad"


def read_table(page: str, name: str) -> dict[str, dict[str, str]]:
    """The table between ``<!-- NAME -->`` and ``<!-- end NAME -->``: arm -> column -> cell.

    Of columns of one name the first is taken.
    """
    block = page.split(f"<!-- {name} -->")[1].split(f"<!-- end {name} -->")[0]
    rows = [[cell.strip(" `") for cell in line.strip("|\n").split("|")] for line in re.findall(r"^\|.*$", block, re.M)]
    head, _, *body = rows
    return {row[0]: dict(reversed(list(zip(head, row, strict=True)))) for row in body}


def difference(cell: str) -> Estimate:
    """Of a cell such as ``**-0.047** ± 0.018``."""
    mean, half = re.findall(r"[-+]?\d+\.\d+", cell)
    return Estimate(float(mean), float(half), sure=cell.startswith("**"))


def spread(cell: str) -> Estimate:
    """Of a cell such as ``26.0% (sd 2.1%)``: the mean's interval, by Student's t over the seeds."""
    mean, deviation = (float(number) for number in re.findall(r"\d+\.\d+", cell))
    return Estimate(mean, float(student_t.ppf(0.975, SEEDS - 1)) * deviation / SEEDS**0.5)


def _head(drawing: Drawing, message: str, measure: str) -> None:
    drawing.text(24, 30, message, bold=True)
    drawing.text(24, 50, f"{measure}: five seeds, mean and 95 % interval", "dim", size=12.5)


def forest(drawing: Drawing, axis: Axis, y: float, estimate: Estimate, colour: str | None = None) -> None:
    """A dot with its interval."""
    colour = colour or estimate.colour
    low, high = axis(estimate.mean - estimate.half), axis(estimate.mean + estimate.half)
    drawing.line(low, y, high, y, colour, width=2)
    for end in (low, high) if estimate.half else ():
        drawing.line(end, y - 4, end, y + 4, colour, width=2)
    drawing.circle(axis(estimate.mean), y, 5, colour)


SHORT = (("uni_opd", "all of Uni-OPD"), ("shift", "margin shift alone"), ("online", "online balancing alone"))
UNI_OPD = (
    (
        "Reliable teachers, 40 rollouts",
        "multi_teacher",
        SHORT,
    ),
    (
        "Unreliable teachers, 40 rollouts",
        "unreliable",
        SHORT,
    ),
    (
        "Unreliable teachers, 120 rollouts",
        "unreliable",
        (
            ("uni_opd_long", "all of Uni-OPD, delta 0.4"),
            ("shift_long", "margin shift alone, delta 0.4"),
            ("shift_2_long", "margin shift alone, delta 2"),
            ("bonus_2_long", "outcome bonus as strong, no shift"),
        ),
    ),
)
"""Heading, table, and its arms with what they are."""


def uni_opd() -> Drawing:
    """Final accuracy minus plain distillation's."""
    page = (DOCS / "laboratory.md").read_text()
    drawing = Drawing(720, 454, "Uni-OPD's laboratory: accuracy minus that of plain distillation")
    _head(
        drawing,
        "Calibration helps in long training by unreliable teachers, and next to nothing elsewhere",
        "final accuracy minus plain distillation's",
    )
    axis, y = Axis(-0.15, 0.35, 280, 640), 80.0
    for heading, name, arms in UNI_OPD:
        drawing.text(24, y + 4, heading, bold=True)
        y += 26
        table = read_table(page, name)
        for arm, label in arms:
            estimate = difference(table[arm]["minus plain (95 %)"])
            drawing.text(36, y + 4, label)
            forest(drawing, axis, y, estimate)
            drawing.text(704, y + 4, f"{estimate.mean:+.3f}", estimate.colour, anchor="end", bold=True)
            y += 24
        y += 10
    drawing.line(axis(0), 66, axis(0), y - 8, "ink")
    axis.ticks(drawing, y - 4, [-0.1, 0, 0.1, 0.2, 0.3])
    drawing.text(axis(0) + 6, 80, "plain distillation", "dim", size=12)
    return drawing


JUDGES = (("clean", "clean judge"), ("noisy", "noisy judge"), ("flipped", "a quarter flipped"))
PAIR_ARMS = (
    ("omni_dpo", "Omni-DPO"),
    ("without_quality", "without quality weight"),
    ("without_performance", "without performance"),
    ("without_nll", "without NLL"),
    ("quality_only", "quality weight alone"),
    ("dpo", "DPO on sums"),
    ("simpo", "SimPO"),
    ("gap_filter", "filter on score gaps"),
    ("focal", "naive focal weight"),
)


def omni_dpo() -> Drawing:
    """Accuracy minus length-normalised DPO's, one panel a judge."""
    page = (DOCS / "preference_laboratory.md").read_text()
    drawing = Drawing(720, 356, "Omni-DPO's laboratory: accuracy minus that of length-normalised DPO")
    _head(
        drawing,
        "Omni-DPO is surely ahead with a clean judge, and not because of its quality weight",
        "accuracy minus length-normalised DPO's",
    )
    for column, (judge, label) in enumerate(JUDGES):
        table = read_table(page, judge)
        axis = Axis(-0.25, 0.3, 196 + 174 * column, 196 + 174 * column + 158)
        drawing.text(axis(0), 78, label, anchor="middle", bold=True)
        drawing.line(axis(0), 88, axis(0), 318, "ink")
        for row, (arm, name) in enumerate(PAIR_ARMS):
            y = 102 + 25 * row
            if column == 0:
                drawing.text(24, y + 4, name, bold=row == 0)
            forest(drawing, axis, y, difference(table[arm]["minus `ln_dpo` (95 %)"]))
        axis.ticks(drawing, 318, [-0.2, 0, 0.2])
    return drawing


CAPTION_ARMS = (
    ("base", "before training"),
    ("cdpo", "SENTINEL, 2,700 pairs"),
    ("pairs_1000", "1,000 pairs"),
    ("pairs_250", "250 pairs"),
    ("misses_alone", "one detector instead of two"),
    ("hallucinated_context", "hallucinated contexts"),
    ("cdpo_nll", "with an NLL on the winner"),
    ("caption_dpo", "DPO on whole captions"),
)


def sentinel() -> Drawing:
    """Hallucinated mentions and recall of greedy captions."""
    table = read_table((DOCS / "sentinel_laboratory.md").read_text(), "greedy")
    drawing = Drawing(720, 332, "SENTINEL's laboratory: hallucinated mentions and objects named")
    _head(
        drawing,
        "Sentence pairs remove hallucinations and keep the captions; whole-caption pairs do not",
        "greedy captions of 256 held-out pictures",
    )
    wrong, recall = Axis(0, 30, 244, 456), Axis(60, 104, 500, 700)
    drawing.text(wrong.left, 78, "hallucinated mentions (%)", bold=True)
    drawing.text(recall.left, 78, "recall, of the base's (%)", bold=True)
    for row, (arm, name) in enumerate(CAPTION_ARMS):
        y = 104 + 25 * row
        drawing.text(24, y + 4, name, bold=arm == "cdpo")
        estimate, kept = spread(table[arm]["hallucinated mentions"]), float(table[arm]["of the base's"].rstrip("%"))
        worse = table[arm]["minus `cdpo` (95 %)"].startswith("**+")
        forest(drawing, wrong, y, estimate, "mark" if arm == "base" else "bad" if worse else "good")
        forest(drawing, recall, y, Estimate(kept), "mark")
    for axis, ticks in ((wrong, [0, 10, 20, 30]), (recall, [60, 70, 80, 90, 100])):
        axis.ticks(drawing, 296, ticks, "{:g}")
    return drawing


def quickstart() -> tuple[dict[str, Estimate], Sequence[str]]:
    """Accuracies of the playground's fresh seeds, with their standard deviations, and the seeds."""
    table = (DOCS / "playground.md").read_text().split("--seeds 11 12 13`:")[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*$", table, re.M)[:7]]
    head, _, *body = rows
    named = {row[0]: [float(cell) for cell in row[1:-1]] for row in body}
    means = dict(zip(head[1:-1], zip(named["mean"], named["sd"], strict=True), strict=True))
    return {name: Estimate(*pair) for name, pair in means.items()}, [row[0] for row in body[:-2]]


def results() -> Drawing:
    """The three methods, each against what it starts from."""
    drawing = Drawing(720, 296, "What each method does on the playground")
    _distillation(drawing)
    _preferences(drawing)
    _captions(drawing)
    return drawing


HEIGHTS = (236, 76)
"""Of nothing and of the highest bar."""


def _distillation(drawing: Drawing) -> None:
    scores, seeds = quickstart()
    _panel(drawing, 24, "Uni-OPD's distillation", f"right answers, seeds {seeds[0]} to {seeds[-1]}")
    height = Axis(0, 1, *HEIGHTS)
    bars = (("before", "dim"), ("after", "good"), ("teachers", "mark"))
    for group, domain in enumerate(("math", "code")):
        for bar, (when, colour) in enumerate(bars):
            x, score = 28 + 104 * group + 32 * bar, scores[f"{when} {domain}"].mean
            _bar(drawing, x, height, score, colour, f"{score:.2f}", width=28)
        drawing.text(28 + 104 * group + 46, 253, domain, "dim", size=12, anchor="middle")
    for place, (when, colour) in enumerate(bars):
        drawing.rect(24 + 68 * place, 271, 10, 10, colour, radius=2)
        drawing.text(38 + 68 * place, 280, when, "dim", size=12)
    drawing.line(24, HEIGHTS[0], 232, HEIGHTS[0])


def _preferences(drawing: Drawing) -> None:
    page = (DOCS / "preference_laboratory.md").read_text()
    _panel(drawing, 266, "Omni-DPO", "accuracy minus DPO's (per token)")
    axis = Axis(-0.05, 0.25, 356, 468)
    drawing.line(axis(0), HEIGHTS[1], axis(0), HEIGHTS[0], "ink")
    for row, (judge, label) in enumerate(JUDGES):
        y = 104 + 52 * row
        drawing.text(266, y + 4, label.replace("a quarter", "¼"), size=12)
        forest(drawing, axis, y, difference(read_table(page, judge)["omni_dpo"]["minus `ln_dpo` (95 %)"]))
    axis.ticks(drawing, HEIGHTS[0], [0, 0.1, 0.2])
    drawing.text(266, 280, "green: surely above 0 (95 %)", "dim", size=12)


def _captions(drawing: Drawing) -> None:
    table = read_table((DOCS / "sentinel_laboratory.md").read_text(), "greedy")
    _panel(drawing, 510, "SENTINEL", "hallucinated mentions (%)")
    for bar, (arm, label, colour) in enumerate((("base", "before", "dim"), ("cdpo", "after", "good"))):
        mean = spread(table[arm]["hallucinated mentions"]).mean
        _bar(drawing, 536 + 80 * bar, Axis(0, 30, *HEIGHTS), mean, colour, f"{mean:.1f}", width=44)
        drawing.text(558 + 80 * bar, 253, label, "dim", size=12, anchor="middle")
    recall = table["cdpo"]["of the base's"].rstrip("%")
    drawing.text(510, 280, f"keeping {float(recall):.0f} % of the recall", "dim", size=12)
    drawing.line(510, HEIGHTS[0], 696, HEIGHTS[0])


def _panel(drawing: Drawing, x: float, title: str, subtitle: str) -> None:
    drawing.text(x, 30, title, bold=True)
    drawing.text(x, 48, subtitle, "dim", size=12)


def _bar(drawing: Drawing, x: float, height: Axis, value: float, colour: str, label: str, *, width: float) -> None:
    drawing.rect(x, height(value), width, HEIGHTS[0] - height(value), colour, radius=2)
    drawing.text(x + width / 2, height(value) - 6, label, size=11.5, anchor="middle", bold=True)


def charts() -> dict[str, Drawing]:
    """All of them by the names of their files."""
    return {"lab_uni_opd": uni_opd(), "lab_omni_dpo": omni_dpo(), "lab_sentinel": sentinel(), "results": results()}


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()  # so that --help writes nothing
    write(charts())
