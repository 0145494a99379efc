"""Read back what a run has written for TensorBoard."""

import re
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

Layout = dict[str, dict[str, list[str]]]


def layout_of(events: EventAccumulator) -> Layout:
    """Tab -> title of a chart -> patterns of its tags; the run must have one layout."""
    (written,) = events.Tensors("custom_scalars__config__")
    messages: Any = layout_pb2
    layout = messages.Layout.FromString(written.tensor_proto.string_val[0])
    return {tab.title: {chart.title: list(chart.multiline.tag) for chart in tab.chart} for tab in layout.category}


def curves_of(run: str | Path) -> dict[str, dict[str, list[str]]]:
    """As `layout_of`, but for the tags that were logged; fails where a pattern matches none, or more than one."""
    events = EventAccumulator(str(run), size_guidance={"tensors": 0}).Reload()
    logged = events.Tags()["scalars"]
    curves: Layout = {}
    for tab, charts in layout_of(events).items():
        curves[tab] = {}
        for title, patterns in charts.items():
            matching = {pattern: [tag for tag in logged if re.match(pattern, tag)] for pattern in patterns}
            assert all(len(tags) == 1 for tags in matching.values()), f"{tab}, {title}: {matching} of {logged}"
            curves[tab][title] = [tag for tags in matching.values() for tag in tags]
    return curves
