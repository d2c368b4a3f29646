"""Draws images and their prompts on one page for a person to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

TILE = 112
GAP = 8
FONT_SIZE = 11
LINE = 14
LINES = 2


def contact_sheet(pictures: NDArray[np.uint8], captions: Sequence[str]) -> Image.Image:
    """Arrange pictures in rows, each with its caption below in up to two lines.

    Small pictures are enlarged without smoothing so that each pixel stays visible; large ones are reduced.

    Args:
        pictures: 8-bit RGB [N, S, S, 3].
        captions: One caption per picture.

    Returns:
        The sheet.
    """
    columns = max(1, math.isqrt(len(pictures) * (TILE + GAP + LINES * LINE) // (TILE + GAP)))
    rows = math.ceil(len(pictures) / columns)
    width, height = TILE + GAP, TILE + GAP + LINES * LINE
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_SIZE)
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left, top = GAP + i % columns * width, GAP + i // columns * height
        small = picture.shape[0] < TILE
        filter_ = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
        sheet.paste(Image.fromarray(picture).resize((TILE, TILE), filter_), (left, top))
        for k, line in enumerate(wrap(caption, draw, font)):
            draw.text((left, top + TILE + 1 + k * LINE), line, "black", font)
    return sheet


def wrap(text: str, draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> list[str]:
    """Break a text at spaces into up to `LINES` lines no wider than a tile, with an ellipsis if it does not fit."""
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < LINES:
        count = 1
        while count < len(words) and draw.textlength(" ".join(words[: count + 1]), font) <= TILE:
            count += 1
        lines.append(" ".join(words[:count]))
        words = words[count:]
    if words:
        lines[-1] += " ..."
    return [shorten(line, draw, font) for line in lines]


def shorten(line: str, draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """Cut a line to the width of a tile, with an ellipsis if something is missing."""
    if draw.textlength(line, font) <= TILE:
        return line
    kept = line.removesuffix(" ...")
    while kept and draw.textlength(kept + "...", font) > TILE:
        kept = kept[:-1]
    return kept + "..."
