"""Pictures with boxes where detectors saw something."""

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

    found: dict[str, tuple[Any, Mapping[str, Any]]] = {}
    for record in records:
        if record.get("verdicts") and record["images"] and record["images"][0] not in found and len(found) < count:
            with suppress(UserError):
                found[record["images"][0]] = open_image(record["images"][0]), record
    if not found:
        return None
    rows, columns = -(-len(found) // 3), min(3, len(found))
    figure = new_figure(4.2 * columns, 4.7 * rows)
    rooms: Any = figure.subplots(rows, columns, squeeze=False)
    for axes in rooms.flat[len(found) :]:
        axes.axis("off")
    for axes, (picture, record) in zip(rooms.flat, found.values(), strict=False):
        axes.imshow(picture)
        axes.set(xticks=[], yticks=[])
        _draw_boxes(axes, record, picture.size)
        said = [f"chosen: {record['chosen']}", f"rejected: {record['rejected']}"]
        axes.set_title("\n".join(fill(line, 52) for line in said), fontsize=8, loc="left")
    names = dict.fromkeys(name for _, record in found.values() for name in record.get("detectors", ()))
    keys = [Patch(color=DETECTORS[number % 4], label=name) for number, name in enumerate(names)]
    figure.legend(handles=keys, loc="outside lower left", fontsize=8, ncols=2)
    return figure


def _draw_boxes(axes: Any, record: Mapping[str, Any], size: tuple[int, int]) -> None:
    """Those of one picture, of ``size`` pixels; one label for all that is seen in one place."""
    from matplotlib.patches import Rectangle

    labels: dict[tuple[float, ...], list[str]] = {}
    for box in record.get("boxes", ()):
        number = record["detectors"].index(box["detector"])
        # Pixels are drawn around their middles; boxes of several detectors around each other.
        room = 0.015 * number * max(size)
        left, top, right, bottom = (edge * side - 0.5 for edge, side in zip(box["place"], size * 2, strict=True))
        corner, sides = (left - room, top - room), (right - left + 2 * room, bottom - top + 2 * room)
        axes.add_patch(
            Rectangle(corner, *sides, fill=False, edgecolor=DETECTORS[number % 4], linewidth=1.5, clip_on=False)
        )
        named = labels.setdefault(tuple(box["place"]), [])
        if box["object"] not in named:
            named.append(box["object"])
    for (left, _, _, bottom), named in labels.items():
        style = {"facecolor": "#14181f", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        place = (left * size[0] - 0.3, bottom * size[1] - 0.7)
        axes.text(*place, ", ".join(named), fontsize=7, color="white", va="bottom", bbox=style)
