"""Opening the pictures that prompts refer to."""

import io
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from lit_uniopd.errors import UserError


def open_picture(reference: Any, max_pixels: int | None = None) -> Image.Image:
    """A picture as RGB, upright.

    Args:
        reference: a path, the bytes of a file, or a picture that is loaded already.
        max_pixels: larger pictures are shrunk to so many pixels, keeping their shape.

    Raises:
        UserError: if it is an address on the web, is missing, or is no picture.
    """
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
                picture = ImageOps.exif_transpose(opened).convert("RGB")
        else:
            picture = ImageOps.exif_transpose(source).convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"The picture {name} cannot be read ({error}); remove the row.") from error
    pixels = picture.width * picture.height
    if max_pixels is not None and pixels > max_pixels:
        scale = (max_pixels / pixels) ** 0.5
        picture = picture.resize((max(1, int(picture.width * scale)), max(1, int(picture.height * scale))))
    return picture
