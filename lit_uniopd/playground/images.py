"""Pictures of 32 x 32 pixels with what a prompt leaves out: bars, coloured shapes, or written digits.

A patch of the vision tower is 8 pixels wide, so a bar is a column of patches, and a shape or a digit fills one.
"""

from collections.abc import Sequence

from PIL import Image, ImageDraw

SIDE, PATCH = 32, 8
WHITE, BLACK, BLUE = (255, 255, 255), (20, 20, 20), (60, 90, 200)
COLOURS = ((200, 60, 50), (50, 150, 80))
SHAPES = ("square", "disc", "triangle", "cross")
LETTERS = "abcdefgh"
"""Letter i is shape i % 4 in colour i // 4."""
GLYPHS = ("111101101101111", "010110010010111", "111001111100111", "111001111001111", "101101111001001")
"""The digits 0 to 4, three by five."""


def draw_chart(values: Sequence[int]) -> Image.Image:
    """Four bars of height 0 to 4."""
    picture, pen = _blank()
    for column, value in enumerate(values):
        if value:
            left = column * PATCH
            pen.rectangle((left + 1, SIDE - value * PATCH, left + PATCH - 2, SIDE - 1), fill=BLUE)
    return picture


def draw_shapes(letters: str) -> Image.Image:
    """Four shapes in a row; each of eight kinds stands for a letter."""
    picture, pen = _blank()
    for column, letter in enumerate(letters):
        box = (column * PATCH + 1, PATCH + 1, column * PATCH + PATCH - 2, 2 * PATCH - 2)
        draw_shape(pen, LETTERS.index(letter), box, COLOURS)
    return picture


def draw_shape(
    pen: ImageDraw.ImageDraw, kind: int, box: tuple[int, int, int, int], colours: Sequence[tuple[int, int, int]]
) -> None:
    """Draw shape ``kind % 4`` in colour ``kind // 4``; the box includes its last column and row."""
    left, top, right, bottom = box
    colour = colours[kind // len(SHAPES)]
    match SHAPES[kind % len(SHAPES)]:
        case "square":
            pen.rectangle(box, fill=colour)
        case "disc":
            pen.ellipse(box, fill=colour)
        case "triangle":
            pen.polygon([(left, bottom), (right, bottom), (left, top)], fill=colour)
        case _:
            pen.line((left, top, right, bottom), fill=colour, width=2)
            pen.line((left, bottom, right, top), fill=colour, width=2)


def draw_document(values: Sequence[int]) -> Image.Image:
    """A form of four lines; each ends with a digit."""
    picture, pen = _blank()
    for line, value in enumerate(values):
        top = line * PATCH
        pen.line((1, top + PATCH - 2, SIDE - PATCH - 2, top + PATCH - 2), fill=BLACK)
        for i, ink in enumerate(GLYPHS[value]):
            if ink == "1":
                picture.putpixel((SIDE - PATCH + 2 + i % 3, top + 1 + i // 3), BLACK)
    return picture


def _blank() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGB", (SIDE, SIDE), WHITE)
    return picture, ImageDraw.Draw(picture)
