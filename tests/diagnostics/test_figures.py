"""What figures draw, read back from them."""

from typing import Any

from lit_uniopd.diagnostics.figures import before_after_figure


def points(figure):
    """Marker -> (x, y) of each point that is drawn, without those of the legend."""
    drawn = {}
    for line in figure.axes[0].lines:
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True):
            drawn.setdefault((line.get_marker(), line.get_markerfacecolor()), []).append((x, y))
    return drawn


def test_an_arrow_goes_from_each_score_before_to_the_score_after():
    scores = {"before": {"math": 0.25}, "after": {"math": 0.75, "code": 1.0}, "teachers": {"code": 0.5}}
    figure = before_after_figure(scores)
    assert {kind[0]: places for kind, places in points(figure).items() if kind[0] == "|"} == {"|": [(0.5, 1)]}
    dots = sorted(place for kind, places in points(figure).items() if kind[0] == "o" for place in places)
    assert dots == [(0.25, 0), (0.75, 0), (1.0, 1)], "code has no score before"
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["math", "code"]
    texts: list[Any] = list(axes.texts)
    arrows = [text for text in texts if text.arrow_patch is not None]
    assert [(arrow.xyann, arrow.xy) for arrow in arrows] == [((0.25, 0), (0.75, 0))]
    assert {text.get_text() for text in axes.texts} >= {"25.0%", "75.0%", "100.0%"}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["before", "after", "teacher"]


def test_labels_of_scores_that_lie_together_do_not_lie_on_each_other():
    figure = before_after_figure({"before": {"a": 0.93, "b": 0.2}, "after": {"a": 0.95, "b": 0.9}})
    texts: list[Any] = list(figure.axes[0].texts)
    heights = {text.get_text(): text.xyann[1] for text in texts if text.get_text()}
    assert heights["95.0%"] < 0 < heights["93.0%"]
    assert heights["20.0%"] == heights["90.0%"] > 0


def test_without_teachers_there_is_no_mark_of_theirs():
    figure = before_after_figure({"before": {"a": 0.0}, "after": {"a": 0.5}})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["before", "after"]
