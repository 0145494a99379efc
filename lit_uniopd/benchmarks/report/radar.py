"""The radar figure: one axis per benchmark, grouped by domain, one line per model."""

import math
from collections.abc import Mapping
from typing import Any

from lit_uniopd.benchmarks.spec import DOMAINS, BenchmarkSpec

Scores = Mapping[str, float]


def radar_figure(models: Mapping[str, Scores], specs: Mapping[str, BenchmarkSpec]) -> Any:
    """Draw scores in [0, 1] on one axis per benchmark.

    Each axis runs from just below the lowest to the highest score on it, which are written at its ends: benchmarks
    differ by far more than models do.

    Args:
        models: name -> (``Benchmark.key`` -> score); models without a score on an axis have a gap there.
        specs: the axes; those for which no model has a score are left out.

    Returns:
        A matplotlib ``Figure``, or None for fewer than three axes, which make no area.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    order = list(DOMAINS)
    keys = [key for key in specs if any(key in scores for scores in models.values())]
    keys.sort(key=lambda key: order.index(specs[key].domain) if specs[key].domain in order else len(order))
    if len(keys) < 3:
        return None
    spans = {key: _span([scores[key] for scores in models.values() if key in scores]) for key in keys}
    angles = [2 * math.pi * i / len(keys) for i in range(len(keys))]
    figure = Figure(figsize=(11, 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot(projection="polar")
    axes.set_theta_offset(math.pi / 2)
    axes.set_theta_direction(-1)
    axes.set_ylim(0, 1.05)
    axes.set_yticks([0.25, 0.5, 0.75, 1.0], labels=[])
    labels = [f"{specs[key].title}\n{spans[key][0]:.0%} - {spans[key][1]:.0%}" for key in keys]
    axes.set_xticks(angles, labels=labels, fontsize=8)
    axes.tick_params(axis="x", pad=22)  # the labels stand outside the arcs
    for name, scores in models.items():
        radii = [_radius(scores.get(key), spans[key]) for key in keys]
        axes.plot([*angles, angles[0]], [*radii, radii[0]], marker="o", markersize=3, label=name)
        axes.fill(angles, [0.0 if math.isnan(radius) else radius for radius in radii], alpha=0.08)
    _domain_arcs(axes, [specs[key].domain for key in keys], angles)
    axes.legend(loc="upper left", bbox_to_anchor=(-0.25, 1.12), fontsize=8)
    return figure


def _span(scores: list[float]) -> tuple[float, float]:
    low, high = min(scores), max(scores)
    margin = max(0.25 * (high - low), 0.02)
    return max(0.0, low - margin), min(1.0, max(high, low + margin))


def _radius(score: float | None, span: tuple[float, float]) -> float:
    low, high = span
    return math.nan if score is None else (score - low) / max(high - low, 1e-9)


def _domain_arcs(axes: Any, domains: list[str], angles: list[float]) -> None:
    half = math.pi / len(domains)
    for number, domain in enumerate(dict.fromkeys(domains)):
        domain_angles = [angle for angle, name in zip(angles, domains, strict=True) if name == domain]
        width = domain_angles[-1] - domain_angles[0] + 2 * half
        middle = (domain_angles[0] + domain_angles[-1]) / 2
        axes.bar(
            middle, 0.05, width=width, bottom=1.0, color=f"C{number}", alpha=0.5, label=DOMAINS.get(domain, domain)
        )
