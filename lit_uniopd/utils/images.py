"""Opening the pictures that prompts refer to."""

import hashlib
import io
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from lit_uniopd.errors import UserError

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises on damaged files: damage in a late PNG chunk is a SyntaxError, damage in a size a "bomb"."""


def open_image(reference: Any, max_pixels: int | None = None) -> Image.Image:
    """A picture as RGB, upright.

    Args:
        reference: a path, the bytes of a file, a picture that is loaded already, or a function that loads it.
        max_pixels: larger pictures are shrunk to this many pixels, keeping their aspect ratio.

    Raises:
        UserError: if it is an address on the web, is missing, or is no picture.
    """
    if callable(reference):
        reference = reference()
    if isinstance(reference, str):
        if reference.startswith(("http://", "https://")):
            raise UserError(f"The picture {reference} is on the web; download it and give its path.")
        if not Path(reference).is_file():
            raise UserError(f"The picture {reference} does not exist; mend its path or remove the row.")
    name = "with embedded bytes" if isinstance(reference, bytes) else reference
    try:
        source = io.BytesIO(reference) if isinstance(reference, bytes) else reference
        if isinstance(source, str | io.BytesIO):
            with Image.open(source) as opened:  # of several frames a file would stay open
                picture = _rgb(ImageOps.exif_transpose(opened))
        else:
            picture = _rgb(ImageOps.exif_transpose(source))
    except UNREADABLE as error:
        raise UserError(f"The picture {name} cannot be read ({error}); remove the row.") from error
    pixels = picture.width * picture.height
    if max_pixels is not None and pixels > max_pixels:
        scale = (max_pixels / pixels) ** 0.5
        picture = picture.resize((max(1, int(picture.width * scale)), max(1, int(picture.height * scale))))
    return picture


def _rgb(picture: Image.Image) -> Image.Image:
    """The picture as RGB; Pillow itself would clip 16-bit values at 255, which leaves a white image."""
    if picture.mode.startswith("I"):
        extrema: Any = picture.getextrema()
        if extrema[1] > 255:
            picture = picture.convert("I").point(lambda value: value * (1 / 256))
        picture = picture.convert("L")
    if "transparency" in picture.info:
        picture = picture.convert("RGBA")  # from a palette with several transparent colours Pillow warns otherwise
    return picture.convert("RGB")


def image_digest(image: Any) -> str:
    """Digest of a picture's pixels."""
    return _file_digest(image) if isinstance(image, str) else _pixels_digest(image)


@lru_cache(maxsize=65536)
def _file_digest(image: str) -> str:
    return _pixels_digest(image)


def _pixels_digest(image: Any) -> str:
    picture = open_image(image).convert("RGB")
    return hashlib.blake2b(repr(picture.size).encode() + picture.tobytes(), digest_size=16).hexdigest()
