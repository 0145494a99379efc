"""Tables and figures of the laboratory, from runs/lab/results.jsonl into docs/laboratory.md.

    python -m benchmarks.lab.report

The text between the tables is written by hand and stays; each table stands between two comments that name it.
"""

import argparse
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.lab.grid import Grid
from benchmarks.lab.paired_tests import interval
from benchmarks.lab.run import read_results
from benchmarks.lab.summary_files import keep

PAGE, FIGURES = Path("docs/laboratory.md"), Path("docs/figures")
CONTRASTS = (
    ("uni_opd", "without_offline"),
    ("mask_for_shift", "without_calibration"),
    ("shift", "bonus"),
    ("shift_2", "bonus_2"),
    ("shift_2_long", "bonus_2_long"),
    ("shift_n4", "bonus_n4"),
    ("shift_n32", "bonus_n32"),
)
"""Pairs of arms that differ in one component, compared besides each arm with plain distillation."""

KEPT = ("key", "setting", "arm", "seed", "final", "curve", "moved", "seconds")
"""Of a run's result, in the summaries."""
MEANS = ("order/inversions_before", "order/mixed", "order/margin_before")
"""Curves whose means over the run are kept too."""
LAST = {"train/entropy": "entropy", "rollout/length": "tokens an answer", "rollout/distinct": "distinct answers"}
"""Curves of which the last value is kept, with what a table calls it."""

Results = dict[tuple[str, str], dict[int, dict[str, Any]]]
"""(setting, arm) -> seed -> result."""


def main() -> None:
    """Fill in the tables and draw the figures."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()  # so that --help writes nothing
    grid, results = Grid.read(), collect(Grid.read())
    keep("uni_opd", [summary_of(run) for runs in results.values() for run in runs.values()])
    page = PAGE.read_text()
    FIGURES.mkdir(exist_ok=True)
    for setting, chosen in grid.settings.items():
        arms = [arm for arm in chosen["arms"] if (setting, arm) in results]
        if not arms:
            continue
        page = fill(page, setting, table(setting, arms, results))
        draw(setting, chosen["title"], arms, results)
    page = fill(page, "contrasts", contrasts(grid, results))
    PAGE.write_text(page)
    print(f"{PAGE} and {FIGURES}/lab_*.png are up to date.")


def summary_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a run: its endpoints, the teachers' order on the way, and what answers were like at the end."""
    means = {tag: statistics.fmean(values) for tag in MEANS if (values := result["curves"].get(tag))}
    last = {tag: values[-1] for tag in LAST if (values := result["curves"].get(tag))}
    kept = {tag: round(value, 4) for tag, value in (means | last).items()}
    return {name: result[name] for name in KEPT} | kept


def collect(grid: Grid) -> Results:
    """The results of the grid as it is now; those of other configs are left out."""
    keys = {cell.key for setting in grid.settings for cell in grid.cells(setting)}
    results: Results = {}
    for key, result in read_results().items():
        if key in keys:
            results.setdefault((result["setting"], result["arm"]), {})[result["seed"]] = result
    return results


def base_of(arm: str) -> str:
    """The arm that another is compared with: plain distillation with as many answers per prompt, or rollouts."""
    size = re.search(r"_(n\d+|long)$", arm)
    return "opd" + (size[0] if size else "")


def paired(results: Results, setting: str, arm: str, base: str, metric: str) -> list[float]:
    """Differences by seed."""
    arm_runs, base_runs = results[setting, arm], results.get((setting, base), {})
    return [arm_runs[seed][metric] - base_runs[seed][metric] for seed in sorted(arm_runs) if seed in base_runs]


def table(setting: str, arms: Sequence[str], results: Results) -> str:
    """Markdown: the accuracies of each arm, and its paired difference from plain distillation."""
    lines = [
        "| arm | seeds | final accuracy | minus plain (95 %) | mean over the run | minus plain (95 %) | "
        "inversions | margins moved by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm in arms:
        runs = results[setting, arm].values()
        cells = [f"`{arm}`", str(len(runs))]
        for metric in ("final", "curve"):
            values = [run[metric] for run in runs]
            spread = f" (sd {statistics.stdev(values):.3f})" if len(values) > 1 else ""
            mean, half = interval(paired(results, setting, arm, base_of(arm), metric) or [math.nan])
            difference = "" if arm == base_of(arm) or math.isnan(mean) else signed(mean, half)
            cells += [f"{statistics.fmean(values):.3f}{spread}", difference]
        inversions = [statistics.fmean(run["curves"].get("order/inversions_before", [math.nan])) for run in runs]
        moved = [run["moved"] or run["matched"] or 0.0 for run in runs]
        cells += [f"{statistics.fmean(inversions):.0%}", f"{statistics.fmean(moved):.2f}" if any(moved) else ""]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", f"![{setting}](figures/lab_{setting}.png)"]
    return "\n".join(lines)


def contrasts(grid: Grid, results: Results) -> str:
    """Markdown: paired differences of final accuracies between arms other than plain distillation."""
    lines = ["| setting | arm | minus | final accuracy (95 %) |", "|---|---|---|---|"]
    for arm, base in CONTRASTS:
        for setting in grid.settings:
            if (setting, arm) in results and (setting, base) in results:
                difference = signed(*interval(paired(results, setting, arm, base, "final")))
                lines.append(f"| {setting} | `{arm}` | `{base}` | {difference} |")
    return "\n".join(lines)


def signed(mean: float, half: float) -> str:
    bold = "**" if abs(mean) > half else ""
    return f"{bold}{mean:+.3f}{bold} ± {half:.3f}"


def fill(page: str, name: str, text: str) -> str:
    """Replace the text between ``<!-- NAME -->`` and ``<!-- end NAME -->``."""
    start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    before, _, old_and_after = page.partition(start)
    after = old_and_after.partition(end)[2]
    return f"{before}{start}\n\n{text}\n\n{end}{after}"


def draw(setting: str, title: str, arms: Sequence[str], results: Results) -> None:
    """Paired differences, one dot a seed, with the interval of their mean; and learning curves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    compared = [arm for arm in arms if arm != base_of(arm)]
    figure = Figure(figsize=(11, 1.6 + 0.3 * max(len(compared), 6)), layout="constrained")
    FigureCanvasAgg(figure)
    dots, lines = figure.subplots(1, 2, width_ratios=(3, 2))
    figure.suptitle(title)
    for row, arm in enumerate(reversed(compared)):
        values = paired(results, setting, arm, base_of(arm), "curve")
        if not values:
            continue
        mean, half = interval(values)
        dots.plot(values, [row] * len(values), "o", markersize=3, color="#b0b7c3")
        dots.errorbar(mean, row, xerr=half, fmt="o", capsize=3, color="#2a7f62" if mean > 0 else "#c8553d")
    dots.set_yticks(range(len(compared)), list(reversed(compared)), fontsize=8)
    dots.axvline(0, color="black", linewidth=1)
    dots.set_xlabel("mean accuracy over the run, minus plain distillation (same seed)")
    main_arms = [arm for arm in ("opd", "uni_opd", "shift", "bonus", "shift_2", "bonus_2") if arm in arms]
    longer = [f"{arm}_long" for arm in main_arms if f"{arm}_long" in arms]
    rollouts = 120 if longer else 40
    for arm in longer or main_arms:
        curves = [run["curves"]["val/accuracy"] for run in results[setting, arm].values()]
        means = [statistics.fmean(values) for values in zip(*curves, strict=False)]
        ends = [rollouts * (i + 1) / len(means) for i in range(len(means))]
        lines.plot(ends, means, marker="o", markersize=3, label=arm)
    lines.set_xlabel("rollouts")
    lines.set_ylabel("accuracy")
    lines.legend(fontsize=8)
    figure.savefig(FIGURES / f"lab_{setting}.png", dpi=80)


if __name__ == "__main__":
    main()
