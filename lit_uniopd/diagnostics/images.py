"""Pictures with the boxes of detectors."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from textwrap import fill
from typing import TYPE_CHECKING, Any

from lit_uniopd.diagnostics.figures import new_figure
from lit_uniopd.errors import UserError
from lit_uniopd.utils.images import open_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DETECTORS = ("#0b7fab", "#d9730d", "#7b4bb7", "#4a7a1c")
"""Colours of their boxes, as in the page of `uniopd view`."""


def images_figure(records: Sequence[Mapping[str, Any]], *, count: int = 6) -> "Figure | None":
    """Pictures of sentence pairs, with boxes where detectors saw their objects.

    Args:
        records: of ``view.pair_records``.
        count: pictures at most, each with one of its pairs.

    Returns:
        The figure; None if no pair has evidence and a picture that can be read.
    """
    from matplotlib.patches import Patch

    images: dict[str, tuple[Any, Mapping[str, Any]]] = {}
    for record in records:
        if record.get("verdicts") and record["images"] and record["images"][0] not in images and len(images) < count:
            with suppress(UserError):
                images[record["images"][0]] = open_image(record["images"][0]), record
    if not images:
        return None
    rows, columns = -(-len(images) // 3), min(3, len(images))
    figure = new_figure(4.2 * columns, 4.7 * rows)
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(images) :]:
        axes.axis("off")
    for axes, (picture, record) in zip(grid.flat, images.values(), strict=False):
        axes.imshow(picture)
        axes.set(xticks=[], yticks=[])
        _draw_boxes(axes, record, picture.size)
        title_lines = [f"chosen: {record['chosen']}", f"rejected: {record['rejected']}"]
        axes.set_title("\n".join(fill(line, 52) for line in title_lines), fontsize=8, loc="left")
    names = dict.fromkeys(name for _, record in images.values() for name in record.get("detectors", ()))
    legend_patches = [Patch(color=DETECTORS[number % 4], label=name) for number, name in enumerate(names)]
    figure.legend(handles=legend_patches, loc="outside lower left", fontsize=8, ncols=2)
    return figure


def _draw_boxes(axes: Any, record: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Draw the boxes of one picture, of ``size`` pixels; objects at the same place share a label."""
    from matplotlib.patches import Rectangle

    labels: dict[tuple[float, ...], list[str]] = {}
    for box in record.get("boxes", ()):
        number = record["detectors"].index(box["detector"])
        # Pixels are drawn around their middles; boxes of several detectors around each other.
        padding = 0.015 * number * max(size)
        left, top, right, bottom = (edge * side - 0.5 for edge, side in zip(box["place"], size * 2, strict=True))
        corner, sides = (left - padding, top - padding), (right - left + 2 * padding, bottom - top + 2 * padding)
        axes.add_patch(
            Rectangle(corner, *sides, fill=False, edgecolor=DETECTORS[number % 4], linewidth=1.5, clip_on=False)
        )
        objects = labels.setdefault(tuple(box["place"]), [])
        if box["object"] not in objects:
            objects.append(box["object"])
    for (left, _, _, bottom), objects in labels.items():
        style = {"facecolor": "#14181f", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        place = (left * size[0] - 0.3, bottom * size[1] - 0.7)
        axes.text(*place, ", ".join(objects), fontsize=7, color="white", va="bottom", bbox=style)
