"""The pictures of the methods are those that their script draws, with the numbers of the functions that train."""

import re
from xml.etree import ElementTree

import pytest

from benchmarks import pictures, svg

DRAWN = {name: str(drawing) for name, drawing in pictures.pictures().items()}


@pytest.mark.parametrize("name", DRAWN)
def test_the_committed_picture_is_what_the_script_draws(name):
    assert (svg.FIGURES / f"{name}.svg").read_text() == DRAWN[name], "run `python -m benchmarks.pictures`"


def test_the_shift_by_hand():
    """Returns -.40, -.10 and .20, -.20: the margin is -.25, so .65 is missing to .4, half of it for each set."""
    texts = re.findall(r">([^<>]+)</text>", DRAWN["uni_opd"])
    assert {"-0.40", "-0.10", "+0.20", "-0.20", "+0.325 a token", "-0.325 a token"} <= set(texts)
    assert [text.split(": ")[1] for text in texts if "minus mean" in text] == ["-0.25", "+0.40"]


def test_the_weights_by_hand():
    """sigmoid(0.7 * 3.5) = 0.921, and (1 - sigmoid(-1 - 1))^3 = 0.881^3."""
    texts = re.findall(r">([^<>]+)</text>", DRAWN["omni_dpo"])
    first = texts.index("1  sure judge, not learned")
    assert texts[first + 1 : first + 4] == ["0.92", "0.68", "0.63"]


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("ground", ["page", "card"])
@pytest.mark.parametrize("name", ["ink", "dim", "good", "bad", "mark"])
def test_texts_have_contrast(name, ground, theme):
    dark, light = sorted(luminance(svg.COLOURS[key][theme]) for key in (name, ground))
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_texts_are_escaped_and_the_picture_is_well_formed():
    drawing = svg.Drawing(10, 10, 'a "b" & c')
    drawing.text(0, 0, "a < b & c")
    root = ElementTree.fromstring(str(drawing))
    assert [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")] == ["a < b & c"]
