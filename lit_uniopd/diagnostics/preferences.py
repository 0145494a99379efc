"""Preference pairs under a policy: quality against performance, and the two weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics.functional.regression import spearman_corrcoef

from lit_uniopd.diagnostics.figures import BAD, GOOD, new_figure
from lit_uniopd.functional.preference import PreferenceLoss
from lit_uniopd.types import EncodedPair
from lit_uniopd.utils.markdown import cell, last_message_text, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = Mapping[str, float]
"""One point of every curve."""


@dataclass(frozen=True, slots=True)
class WeighedPairs:
    """Pairs with their margins and weights under a policy; tensors ``[P]`` on the CPU."""

    pairs: tuple[EncodedPair, ...]
    gaps: Tensor
    """Chosen minus rejected score; NaN where the pair has none."""
    margins: Tensor
    """Reward of the chosen minus that of the rejected answer."""
    w_quality: Tensor
    w_performance: Tensor
    further: Mapping[str, Tensor] = field(default_factory=dict, kw_only=True)
    """Other numbers of each pair, by name: rewards, and the loss's other terms."""

    @property
    def weights(self) -> Tensor:
        return self.w_quality * self.w_performance

    @property
    def rank_correlation(self) -> float:
        """Spearman's rho of score gaps and reward margins; NaN if either is constant or pairs have no scores."""
        judged = ~self.gaps.isnan()
        gaps, margins = self.gaps[judged], self.margins[judged]
        if len(gaps) < 2 or bool((gaps == gaps[0]).all()) or bool((margins == margins[0]).all()):
            return float("nan")
        return float(spearman_corrcoef(margins, gaps))

    @property
    def effective_share(self) -> float:
        """Of both weights together."""
        return effective_share(self.weights)


def effective_share(weights: Tensor) -> float:
    """``(sum w)^2 / (P sum w^2)``: how many equally weighted pairs they are worth, as a share of all."""
    weights = weights.double()
    squares = (weights**2).sum()
    return float(weights.sum() ** 2 / (len(weights) * squares)) if squares > 0 else 0.0


def weighed(pairs: Sequence[EncodedPair], loss: PreferenceLoss) -> WeighedPairs:
    """Pairs with the terms of their loss; weights are 1 for losses without weights."""
    unit_weights = torch.ones_like(loss.margins)
    further = {name: values for name, values in loss.terms.items() if name not in ("w_quality", "w_performance")}
    further |= {"chosen_reward": loss.chosen_rewards, "rejected_reward": loss.rejected_rewards}
    return WeighedPairs(
        pairs=tuple(pairs),
        gaps=torch.tensor([pair.pair.score_chosen - pair.pair.score_rejected for pair in pairs]),
        margins=loss.margins.detach().float().cpu(),
        w_quality=loss.terms.get("w_quality", unit_weights).detach().float().cpu(),
        w_performance=loss.terms.get("w_performance", unit_weights).detach().float().cpu(),
        further={name: values.detach().float().cpu() for name, values in further.items()},
    )


def joined(batches: Sequence[WeighedPairs]) -> WeighedPairs:
    """Several batches as one."""
    columns = zip(
        *((batch.gaps, batch.margins, batch.w_quality, batch.w_performance) for batch in batches), strict=True
    )
    further = {name: torch.cat([batch.further[name] for batch in batches]) for name in batches[0].further}
    pairs = tuple(pair for batch in batches for pair in batch.pairs)
    return WeighedPairs(pairs, *map(torch.cat, map(list, columns)), further=further)


def pairs_figure(pairs: WeighedPairs) -> "Figure":
    """Weights; rewards where pairs have neither scores nor weights."""
    weighs = bool((pairs.weights != 1).any()) or bool((~pairs.gaps.isnan()).any())
    return weights_figure(pairs) if weighs else rewards_figure(pairs)


def rewards_figure(pairs: WeighedPairs) -> "Figure":
    """Histograms of the rewards of chosen and rejected answers, and of the margins between them."""
    figure = new_figure(10, 4)
    axes: Any = figure.subplots(1, 2)
    rewards_axes, margins_axes = axes
    for side, colour in (("chosen", GOOD), ("rejected", BAD)):
        values = pairs.further[f"{side}_reward"]
        rewards_axes.hist(
            values.tolist(), bins=30, histtype="step", color=colour, label=f"{side}, mean {values.mean():+.3f}"
        )
    rewards_axes.set_xlabel("reward")
    rewards_axes.legend(fontsize=8)
    margins_axes.hist(pairs.margins.tolist(), bins=30, color="#44546a", alpha=0.8)
    margins_axes.set_xlabel("reward margin")
    margins_axes.set_title(
        f"{(pairs.margins > 0).double().mean():.0%} of {len(pairs.pairs)} pairs ranked right", fontsize=10
    )
    for panel in axes:
        panel.axvline(0, color="black", linewidth=0.8)
        panel.set_ylabel("pairs")
    return figure


def weights_figure(pairs: WeighedPairs) -> "Figure":
    """Density of score gaps and reward margins (the paper's figure 4b), and histograms of the weights."""
    figure = new_figure(10, 4)
    axes: Any = figure.subplots(1, 2)
    pairs_axes, weights_axes = axes
    judged = ~pairs.gaps.isnan()
    if bool(judged.any()):
        hexagons = pairs_axes.hexbin(pairs.gaps[judged], pairs.margins[judged], gridsize=24, mincnt=1, cmap="Greens")
        figure.colorbar(hexagons, ax=pairs_axes, label="pairs")
    pairs_axes.axhline(0, color="black", linewidth=0.8)
    pairs_axes.axvline(0, color="black", linewidth=0.8)
    pairs_axes.set_xlabel("quality: score gap")
    pairs_axes.set_ylabel("performance: reward margin")
    rho = pairs.rank_correlation
    correlation = f"Spearman's rho {rho:.2f}" if rho == rho else "all of one score gap or margin"
    pairs_axes.set_title(f"{correlation}, {len(pairs.pairs)} pairs")
    for values, label, colour in (
        (pairs.w_quality, "quality", "#8a94a6"),
        (pairs.w_performance, "performance", BAD),
        (pairs.weights, "both", GOOD),
    ):
        weights_axes.hist(values.tolist(), bins=[i / 25 for i in range(26)], histtype="step", label=label, color=colour)
    weights_axes.set_xlabel("weight")
    weights_axes.set_ylabel("pairs")
    weights_axes.set_title(f"effective sample size {pairs.effective_share:.0%}")
    weights_axes.legend()
    return figure


CURVES = {
    "loss": "loss",
    "accuracy": "pairs ranked right",
    "margin": "reward margin",
    "grad_norm": "gradient norm, before clipping",
}


def curves_figure(train: Sequence[Curve], val: Sequence[Curve]) -> "Figure":
    """Loss, accuracy, margin and gradient norm over the steps (the paper's figure 5).

    Args:
        train: of each noted step, ``step`` and the quantities in ``CURVES``.
        val: the same of each validation.
    """
    figure = new_figure(14, 3.4)
    grid: Any = figure.subplots(1, len(CURVES))
    for axes, (name, label) in zip(grid, CURVES.items(), strict=True):
        for curve, split, style in ((train, "training", {"alpha": 0.6}), (val, "validation", {"marker": "o"})):
            points = [point for point in curve if name in point]
            if points:
                colour = "#8a94a6" if split == "training" else GOOD
                axes.plot([p["step"] for p in points], [p[name] for p in points], color=colour, label=split, **style)
        axes.set_xlabel("step")
        axes.set_ylabel(label)
    figure.axes[0].legend(fontsize=8)
    return figure


def weights_table(pairs: WeighedPairs, *, count: int = 5, max_chars: int = 400) -> str:
    """Markdown table of the pairs with the highest and the lowest weight.

    Args:
        pairs: to choose from.
        count: rows of each kind, as far as there are pairs.
        max_chars: longer texts are cut.
    """
    order = pairs.weights.argsort(descending=True, stable=True).tolist()
    indices = order if len(order) <= 2 * count else order[:count] + order[-count:]
    rows = []
    for i in indices:
        pair = pairs.pairs[i].pair
        rows.append(
            [
                f"{float(pairs.weights[i]):.3f}",
                f"{float(pairs.w_quality[i]):.3f}",
                f"{float(pairs.w_performance[i]):.3f}",
                f"{float(pairs.margins[i]):+.3f}",
                f"{pair.score_chosen:.3g} / {pair.score_rejected:.3g}",
                *(cell(text, max_chars) for text in (last_message_text(pair.prompt), pair.chosen, pair.rejected)),
            ]
        )
    return table(["weight", "quality", "performance", "margin", "scores", "prompt", "chosen", "rejected"], rows)
