"""Figures of where captions hallucinate."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lit_uniopd.diagnostics.figures import BAD, GOOD, new_figure
from lit_uniopd.hallucination.positions import PlacedMention, counts_by_sentence

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def positions_figure(mentions: Mapping[str, Sequence[PlacedMention]]) -> "Figure":
    """Density of mentions over the caption, and counts by sentence with the hallucinated share (figures 2a and 2b).

    Args:
        mentions: name of a set of captions (before, after) -> mentions of all its captions.

    Returns:
        A row for each set.
    """
    figure = new_figure(10, 3.2 * len(mentions))
    grid: Any = figure.subplots(len(mentions), 2, squeeze=False)
    for (density_axes, count_axes), (name, placed) in zip(grid, mentions.items(), strict=True):
        for hallucinated, label, colour in ((False, "factual", GOOD), (True, "hallucinated", BAD)):
            values = [mention.relative for mention in placed if mention.hallucinated == hallucinated]
            if values:
                label_and_count, bins = f"{label}, {len(values)}", [i / 10 for i in range(11)]
                density_axes.hist(values, bins=bins, density=True, histtype="step", color=colour, label=label_and_count)
        density_axes.set_title(name, fontsize=10)
        density_axes.set_xlabel("place in the caption")
        density_axes.set_ylabel("density of mentions")
        density_axes.legend(fontsize=8)
        factual, wrong = counts_by_sentence(placed)
        places = range(1, len(factual) + 1)
        count_axes.bar(places, factual, color=GOOD, alpha=0.7, label="factual")
        count_axes.bar(places, wrong, bottom=factual, color=BAD, alpha=0.8, label="hallucinated")
        for place, good, bad in zip(places, factual, wrong, strict=True):
            if good + bad:
                count_axes.text(place, good + bad, f"{bad / (good + bad):.0%}", ha="center", va="bottom", fontsize=8)
        count_axes.set_xticks(list(places), [*map(str, places[:-1]), f"{places[-1]}+"])
        count_axes.set_xlabel("sentence (share of hallucinated mentions above the bars)")
        count_axes.set_ylabel("mentions")
        count_axes.set_ylim(0, 1.15 * max(1, *map(sum, zip(factual, wrong, strict=True))))
    return figure
