"""Reading picture files: as they look, whatever their kind; and damage, whatever it is, as a user's error."""

import random
from pathlib import Path

import pytest
from PIL import Image

from lit_uniopd.errors import UserError
from lit_uniopd.hallucination.detectors.base import opened
from lit_uniopd.utils.images import open_image


def test_odd_pictures_are_read_as_they_look(odd_pictures):
    read = {name: open_image(path) for name, path in odd_pictures.items()}
    assert all(picture.mode == "RGB" for picture in read.values())
    assert read["turned.jpg"].size == (30, 40)
    assert read["high.png"].size == (1, 300)
    for name in ("i16.png", "i16.tif"):
        with Image.open(odd_pictures[name]) as raw:
            assert raw.mode == "I;16"
            high_bytes = raw.tobytes()[1::2]
        assert read[name].getchannel(0).tobytes() == high_bytes, "not cut off at 255"
    assert [picture.size for picture in opened([odd_pictures["high.png"], read["pixel.png"]])] == [(6, 300), (1, 1)]


@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::RuntimeWarning", "ignore::PIL.Image.DecompressionBombWarning"
)
@pytest.mark.parametrize("name", ["la.png", "i16.tif", "turned.jpg", "moving.gif", "broad.webp"])
def test_damaged_files_are_always_a_users_error(odd_pictures, name):
    """Wherever the damage is: a run over many pictures must go on."""
    intact, draw, refused = Path(odd_pictures[name]).read_bytes(), random.Random(0), 0
    for trial in range(150):
        damaged = bytearray(intact[: draw.randrange(len(intact))] if trial % 3 == 0 else intact)
        for _ in range(0 if trial % 3 == 0 else draw.choice((1, 4, 20))):
            damaged[draw.randrange(min(len(damaged), draw.choice((40, 300, 10**6))))] = draw.randrange(256)
        try:
            open_image(bytes(damaged))
        except UserError:
            refused += 1
    assert refused > 50


def test_damage_that_pillow_reports_in_other_ways(tmp_path):
    Image.effect_noise((400, 400), 80).save(tmp_path / "chunk.png")
    raw = bytearray((tmp_path / "chunk.png").read_bytes())
    second = raw.index(b"IDAT", raw.index(b"IDAT") + 1)
    raw[second : second + 4] = b"\xfd\xff\xff\xff"  # a SyntaxError
    (tmp_path / "chunk.png").write_bytes(raw)
    Image.effect_noise((64, 48), 80).save(tmp_path / "bomb.bmp")
    raw = bytearray((tmp_path / "bomb.bmp").read_bytes())
    raw[18:26] = b"\xff\xff\x0f\x00" * 2  # the size
    (tmp_path / "bomb.bmp").write_bytes(raw)
    for name in ("chunk.png", "bomb.bmp"):
        with pytest.raises(UserError, match=rf"{name} cannot be read"):
            open_image(str(tmp_path / name))
