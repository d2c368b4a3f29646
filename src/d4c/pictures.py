"""Opens pictures in every format that Pillow decodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from d4c.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


def decoded(read: Callable[[], Image.Image], source: str) -> Image.Image:
    """Open a picture and decode it, keeping its mode.

    Args:
        read: Opens the picture.
        source: Names the picture in the error message.

    Returns:
        The picture with all its pixels in memory.

    Raises:
        DataError: The picture is missing or damaged.
    """
    try:
        picture = read()
        picture.load()
    # Pillow's decoders raise nearly every kind of exception on damaged files.
    except Exception as error:
        raise DataError(f"{source} does not decode as an image ({error}); repair it or leave it out.") from None
    return picture


def open_picture(path: str | Path) -> Image.Image:
    """Open the picture in a file with its transparent parts white; raises DataError if it does not decode."""
    return on_white(decoded(lambda: Image.open(path), str(path)))


def on_white(picture: Image.Image) -> Image.Image:
    """Put a picture with transparency on white, as opaque RGB; return any other picture as it is."""
    if picture.mode not in ("RGBA", "RGBa", "LA", "La", "PA") and "transparency" not in picture.info:
        return picture
    rgba = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
