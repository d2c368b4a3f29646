"""Small pictures as data addresses, which a page carries inside."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LARGE, SMALL = 160, 64
"""Longer side in pixels of a picture that is looked at, and of one among many."""
CRISP = 64
"""Pictures up to this side are shown with their pixels."""


@dataclass(frozen=True)
class Thumbnail:
    """A picture in a page.

    Attributes:
        source: Its data address.
        text: What it shows, for those who do not see it.
        crisp: Whether its pixels are shown as squares.
    """

    source: str
    text: str
    crisp: bool


def thumbnail(picture: Image.Image | NDArray[np.uint8], text: str, side: int = LARGE) -> Thumbnail:
    """Shrink a picture and encode it.

    Args:
        picture: An RGB picture, or an array [H, W, 3].
        text: What it shows.
        side: Longer side in pixels; smaller pictures stay as they are.
    """
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture.convert("RGB")
    crisp = max(image.size) <= CRISP < side
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = BytesIO()
    image.save(stream, "JPEG", quality=90 if crisp else 82, subsampling=0 if crisp else 2)
    return Thumbnail(f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}", text, crisp)
