"""Figures: returns and margins around calibration, difficulties around balancing, scores around training."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_uniopd.diagnostics.order import Judged
from lit_uniopd.types import CORRECT, INCORRECT

if TYPE_CHECKING:  # slow to import, and most runs draw late or never
    from matplotlib.figure import Figure

GOOD, BAD = "#2a7f62", "#c8553d"


def order_figure(rollouts: Sequence[Judged]) -> "Figure | None":
    """Returns of correct and incorrect answers, and margins of mixed groups, before and after calibration.

    Args:
        rollouts: of several steps; groups of different steps are different groups.

    Returns:
        The figure; None if no group has both correct and incorrect answers.
    """
    reports = [[judged.order(judged.rows >= 0, after=after) for judged in rollouts] for after in (False, True)]
    margins = [torch.cat([report.margin_mean for report in row]) for row in reports]
    if not len(margins[0]):
        return None
    figure = new_figure(9, 6)
    grid: Any = figure.subplots(2, 2, sharex="col")
    outcome_B = torch.cat([judged.outcome_B for judged in rollouts])
    returns = [torch.cat([judged.before_B for judged in rollouts]), torch.cat([judged.after_B for judged in rollouts])]
    inversions = [
        sum(int(r.inversions.sum()) for r in row) / max(1, sum(int(r.pairs.sum()) for r in row)) for row in reports
    ]
    for row, when in enumerate(("before", "after")):
        returns_axes, margins_axes = grid[row]
        edges = _edges(torch.cat(returns))
        for name, outcome, colour in (("correct", CORRECT, GOOD), ("incorrect", INCORRECT, BAD)):
            values = returns[row][outcome_B == outcome]
            returns_axes.hist(values.numpy(), bins=edges, density=True, alpha=0.55, color=colour, label=name)
            returns_axes.axvline(float(values.mean()), color=colour, linewidth=1.5)
        returns_axes.set_ylabel(f"{when} calibration\ndensity")
        margins_axes.hist(margins[row].numpy(), bins=_edges(torch.cat(margins)), color="#44546a", alpha=0.8)
        margins_axes.axvline(0, color="black", linewidth=1)
        margins_axes.set_title(
            f"{(margins[row] < 0).double().mean():.0%} below 0, {inversions[row]:.0%} of pairs inverted", fontsize=9
        )
    grid[0][0].legend(fontsize=8)
    grid[1][0].set_xlabel("return of an answer (nats per token)")
    grid[1][1].set_xlabel("margin of a mixed group (nats per token)")
    return figure


def difficulty_figure(before: Sequence[int], after: Sequence[int]) -> "Figure":
    """Prompts by the number of right answers, before and after balancing.

    Args:
        before: prompts with 0, 1, .. N right answers.
        after: the same, each counted as often as it is seen.
    """
    figure = new_figure(7, 3.5)
    axes: Any = figure.subplots()
    places = range(len(before))
    axes.bar([i - 0.2 for i in places], before, width=0.4, label="prompts", color="#b0b7c3")
    axes.bar([i + 0.2 for i in places], after, width=0.4, label="seen in a pass", color=GOOD)
    axes.set_xticks(list(places))
    axes.set_xlabel(f"right answers of {len(before) - 1}")
    axes.set_ylabel("prompts")
    axes.legend(fontsize=8)
    return figure


def before_after_figure(scores: Mapping[str, Mapping[str, float]]) -> "Figure":
    """Shares before and after training, an arrow from one to the other.

    Args:
        scores: ``before`` (may be absent), ``after`` and, as a mark to reach, ``teachers``: name of a row -> share.
    """
    before, after, teachers = (scores.get(name, {}) for name in ("before", "after", "teachers"))
    figure = new_figure(7, 1.3 + 0.42 * len(after))
    axes: Any = figure.subplots()
    label: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 8}
    for row, (name, end) in enumerate(after.items()):
        start = before.get(name)
        if start is not None:
            arrow = {"arrowstyle": "-|>", "color": "#8a94a6", "shrinkA": 5, "shrinkB": 5}
            axes.annotate("", (end, row), (start, row), arrowprops=arrow)
            axes.plot(start, row, "o", color="white", markeredgecolor="#44546a", markersize=8)
            axes.annotate(f"{start:.1%}", (start, row), (0, 8), **label)
        axes.plot(end, row, "o", color=GOOD, markersize=8)
        below = start is not None and abs(end - start) < 0.09  # beside the other label there is no room
        axes.annotate(f"{end:.1%}", (end, row), (0, -15 if below else 8), **label)
        if name in teachers:
            axes.plot(teachers[name], row, "|", color=BAD, markersize=20, markeredgewidth=2)
    axes.plot([], [], "o", color="white", markeredgecolor="#44546a", label="before")
    axes.plot([], [], "o", color=GOOD, label="after")
    if teachers:
        axes.plot([], [], "|", color=BAD, markersize=12, markeredgewidth=2, label="teacher")
    axes.set_yticks(range(len(after)), list(after))
    axes.set_ylim(len(after) - 0.4, -0.7)
    axes.set_xlim(-0.04, 1.06)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    return figure


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure that needs no display (width and height in inches)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _edges(values: Tensor) -> list[float]:
    """Edges of forty bins from the 1st to the 99th percentile, so that an outlier does not flatten the histogram."""
    low, high = torch.quantile(values.double(), torch.tensor([0.01, 0.99], dtype=torch.float64)).tolist()
    bin_width = max(high - low, 1e-3) / 40
    return [low - bin_width + i * (high - low + 2 * bin_width) / 40 for i in range(41)]
