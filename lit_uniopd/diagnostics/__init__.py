"""What a rollout says about its teachers, and pairs about a policy: order, margins, misjudged answers, weights."""

from lit_uniopd.diagnostics.figures import before_after_figure, difficulty_figure, new_figure, order_figure
from lit_uniopd.diagnostics.images import images_figure
from lit_uniopd.diagnostics.misjudged import misjudged_table
from lit_uniopd.diagnostics.order import BINS, Judged, judge, order_statistics
from lit_uniopd.diagnostics.preferences import (
    WeighedPairs,
    curves_figure,
    joined,
    pairs_figure,
    weighed,
    weights_figure,
    weights_table,
)

__all__ = [
    "BINS",
    "Judged",
    "WeighedPairs",
    "before_after_figure",
    "curves_figure",
    "difficulty_figure",
    "images_figure",
    "joined",
    "judge",
    "misjudged_table",
    "new_figure",
    "order_figure",
    "order_statistics",
    "pairs_figure",
    "weighed",
    "weights_figure",
    "weights_table",
]
