"""Pictures drawn from a description, for bundled rows: nothing is copied from any data set."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image, ImageDraw

from lit_uniopd.errors import UserError

SIDE = 224
"""Width and height in pixels."""
COLOURS = {
    "red": (214, 56, 48),
    "blue": (52, 104, 214),
    "green": (44, 150, 72),
    "yellow": (240, 200, 40),
    "black": (20, 20, 20),
    "grey": (140, 140, 140),
    "orange": (236, 128, 32),
    "purple": (128, 64, 160),
}
_PALETTE = list(COLOURS.values())


def draw(cell: Mapping[str, Any]) -> Image.Image:
    """The picture that a cell describes.

    Args:
        cell: ``{"drawing": KIND, ...}``; the other keys are the arguments of the function of that name.

    Raises:
        UserError: an unknown kind, or a description that lacks something.
    """
    kind = cell.get("drawing")
    if kind not in DRAWINGS:
        raise UserError(f"A picture column asks for the drawing {kind!r}; use one of {', '.join(DRAWINGS)}.")
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    arguments = {key: value for key, value in cell.items() if key != "drawing"}
    try:
        DRAWINGS[kind](ImageDraw.Draw(picture), **arguments)
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"The drawing {kind!r} of a picture column cannot be made of {arguments} ({error}); mend the row."
        ) from error
    return picture


def bar_chart(pen: ImageDraw.ImageDraw, bars: Mapping[str, float], title: str = "") -> None:
    """Labelled bars with their values above them."""
    pen.text((8, 4), title, fill="black")
    pen.line([(16, 24), (16, 196), (216, 196)], fill="black")
    step, top = 192 // len(bars), max(bars.values()) or 1
    for i, (label, value) in enumerate(bars.items()):
        left, height = 24 + i * step, int(150 * value / top)
        pen.rectangle([left, 196 - height, left + step - 12, 196], fill=_PALETTE[i % len(_PALETTE)])
        pen.text((left, 184 - height), f"{value:g}", fill="black")
        pen.text((left, 200), label, fill="black")


def line_chart(pen: ImageDraw.ImageDraw, points: Mapping[str, float], title: str = "") -> None:
    """One line with its values written at the points."""
    pen.text((8, 4), title, fill="black")
    pen.line([(16, 24), (16, 196), (216, 196)], fill="black")
    step, top = 180 // max(len(points) - 1, 1), max(points.values()) or 1
    places = [(24 + i * step, 196 - int(150 * value / top)) for i, value in enumerate(points.values())]
    pen.line(places, fill=_PALETTE[1], width=2)
    for (x, y), (label, value) in zip(places, points.items(), strict=True):
        pen.text((x, y - 14), f"{value:g}", fill="black")
        pen.text((x - 4, 200), label, fill="black")


def pie_chart(pen: ImageDraw.ImageDraw, parts: Mapping[str, float], title: str = "") -> None:
    """Sectors with a legend."""
    pen.text((8, 4), title, fill="black")
    start, total = -90.0, sum(parts.values())
    for i, (label, value) in enumerate(parts.items()):
        end = start + 360 * value / total
        pen.pieslice([12, 40, 142, 170], start, end, fill=_PALETTE[i % len(_PALETTE)], outline="white")
        pen.rectangle([150, 44 + 18 * i, 160, 54 + 18 * i], fill=_PALETTE[i % len(_PALETTE)])
        pen.text((164, 43 + 18 * i), f"{label} {value:g}", fill="black")
        start = end


def document(pen: ImageDraw.ImageDraw, lines: list[str], title: str = "") -> None:
    """A page of text."""
    pen.rectangle([4, 4, 219, 219], outline="grey")
    pen.text((12, 10), title, fill="black")
    for i, line in enumerate(lines):
        pen.text((12, 34 + 16 * i), line, fill="black")


def table(pen: ImageDraw.ImageDraw, rows: list[list[str]]) -> None:
    """A ruled table."""
    width = 208 // max(map(len, rows))
    for i, row in enumerate(rows):
        for j, text in enumerate(row):
            pen.rectangle([8 + j * width, 12 + 24 * i, 8 + (j + 1) * width, 36 + 24 * i], outline="black")
            pen.text((12 + j * width, 18 + 24 * i), text, fill="black")


def shapes(pen: ImageDraw.ImageDraw, items: list[list[Any]]) -> None:
    """Coloured shapes: ``[kind, colour, x, y, size]``, places and sizes in [0, 1]."""
    for kind, colour, x, y, size in items:
        _shape(pen, kind, COLOURS[colour], SIDE * x, SIDE * y, SIDE * size / 2)


def geometry(pen: ImageDraw.ImageDraw, corners: Mapping[str, list[float]], lengths: Mapping[str, str] = {}) -> None:
    """A polygon with named corners, and sides with lengths (``{"AB": "3"}``)."""
    places = {name: (SIDE * x, SIDE * y) for name, (x, y) in corners.items()}
    pen.polygon(list(places.values()), outline="black")
    for name, (x, y) in places.items():
        pen.text((x + 4, y - 12), name, fill="black")
    for side, length in lengths.items():
        (ax, ay), (bx, by) = places[side[0]], places[side[1]]
        pen.text(((ax + bx) / 2 + 4, (ay + by) / 2 + 2), length, fill="blue")


def pattern(pen: ImageDraw.ImageDraw, grid: list[list[str]], choices: list[str]) -> None:
    """A square of shapes with a gap (``?``), and the lettered shapes that may fill it."""
    for i, row in enumerate(grid):
        for j, kind in enumerate(row):
            x, y = 40 + 48 * j, 28 + 48 * i
            pen.rectangle([x - 22, y - 22, x + 22, y + 22], outline="grey")
            pen.text((x - 3, y - 6), "?", fill="black") if kind == "?" else _shape(
                pen, kind, COLOURS["black"], x, y, 14
            )
    for k, kind in enumerate(choices):
        pen.text((16 + 52 * k, 176), "ABCDEFGH"[k], fill="black")
        _shape(pen, kind, COLOURS["blue"], 36 + 52 * k, 200, 12)


def scene(pen: ImageDraw.ImageDraw, objects: list[str]) -> None:
    """Everyday objects as simple shapes with their names, on grass under a sky."""
    pen.rectangle([0, 0, SIDE, 130], fill=(196, 224, 250))
    pen.rectangle([0, 130, SIDE, SIDE], fill=(150, 200, 120))
    for i, name in enumerate(objects):
        x, y = 40 + 70 * (i % 3), 120 + 62 * (i // 3)
        pen.ellipse([x - 24, y - 18, x + 24, y + 18], fill=_PALETTE[sum(map(ord, name)) % len(_PALETTE)])
        pen.text((x - 20, y - 5), name, fill="white")


def _shape(pen: ImageDraw.ImageDraw, kind: str, colour: tuple[int, int, int], x: float, y: float, r: float) -> None:
    corners = {"triangle": 3, "square": 4, "pentagon": 5, "hexagon": 6}
    if kind == "circle":
        pen.ellipse([x - r, y - r, x + r, y + r], fill=colour)
    elif kind in corners:
        pen.regular_polygon((x, y, r), corners[kind], fill=colour)
    elif kind == "star":
        points = [(r if i % 2 == 0 else r / 2.5, math.pi * i / 5 - math.pi / 2) for i in range(10)]
        pen.polygon([(x + length * math.cos(a), y + length * math.sin(a)) for length, a in points], fill=colour)
    else:
        raise ValueError(f"no shape {kind!r}")


DRAWINGS: dict[str, Callable[..., None]] = {
    function.__name__: function
    for function in (bar_chart, line_chart, pie_chart, document, table, shapes, geometry, pattern, scene)
}
