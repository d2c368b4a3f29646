"""Opening pictures of every kind that Pillow decodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from d4c.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


def decoded(read: Callable[[], Image.Image], place: str) -> Image.Image:
    """The picture that `read` opens, in its own mode; raises DataError, naming `place`, if it is damaged."""
    try:
        picture = read()
        picture.load()
    # Pillow's decoders raise nearly every kind of exception on damaged files.
    except Exception as error:
        raise DataError(f"{place} does not decode as an image ({error}); repair it or leave it out.") from None
    return picture


def open_picture(path: str | Path) -> Image.Image:
    """The picture in a file with its transparent parts white; raises DataError if it does not decode."""
    return on_white(decoded(lambda: Image.open(path), str(path)))


def on_white(picture: Image.Image) -> Image.Image:
    """A picture with transparency as opaque RGB over white; any other unchanged."""
    if picture.mode not in ("RGBA", "RGBa", "LA", "La", "PA") and "transparency" not in picture.info:
        return picture
    rgba = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
