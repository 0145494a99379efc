"""Pictures of awkward kinds, and tiny detectors."""

import pytest
from PIL import Image
from tiny_detectors import dino, mm_dino, omdet, owl, pictures, rt_detr  # noqa: F401  # fixtures


@pytest.fixture(scope="session")
def odd_pictures(tmp_path_factory):
    """Files that trip readers up: of 16 bits, with alpha or a palette with it, turned by EXIF, a pixel wide, animated."""
    directory = tmp_path_factory.mktemp("odd")
    noise = Image.effect_noise((40, 30), 90)
    turned = Image.Exif()
    turned[0x0112] = 6
    depth = Image.frombytes("I;16", (40, 30), bytes(range(256)) * 9 + bytes(96))
    saved = {
        "la.png": (noise.convert("LA"), {}),
        "pa.png": (noise.convert("RGBA").quantize(16), {}),
        "i16.png": (depth, {}),
        "i16.tif": (depth, {}),
        "cmyk.tif": (noise.convert("CMYK"), {}),
        "turned.jpg": (noise.convert("RGB"), {"exif": turned}),
        "moving.gif": (noise.convert("P"), {"save_all": True, "append_images": [noise.convert("P")]}),
        "pixel.png": (noise.crop((0, 0, 1, 1)), {}),
        "high.png": (noise.resize((1, 300)), {}),
        "broad.webp": (noise.resize((400, 1)), {}),
    }
    for name, (picture, options) in saved.items():
        picture.save(directory / name, **options)
    return {name: str(directory / name) for name in saved}
