"""What a rollout says about its teachers: order, margins, misjudged answers, difficulty."""

from lit_uniopd.diagnostics.figures import difficulty_figure, order_figure
from lit_uniopd.diagnostics.misjudged import misjudged_table
from lit_uniopd.diagnostics.order import BINS, Judged, judge, order_statistics

__all__ = ["BINS", "Judged", "difficulty_figure", "judge", "misjudged_table", "order_figure", "order_statistics"]
