"""The contact sheet shows every picture and keeps captions inside their tile."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from d4c.calibration.sheet import FONT_SIZE, LINES, TILE, contact_sheet, wrap


@pytest.mark.parametrize("count", [1, 2, 7, 64])
@pytest.mark.parametrize("size", [8, 224])
def test_every_picture_is_on_the_sheet(count: int, size: int) -> None:
    colors = np.arange(count * 3).reshape(count, 1, 1, 3) % 251 + 1
    pictures = np.broadcast_to(colors, (count, size, size, 3)).astype(np.uint8)
    sheet = np.asarray(contact_sheet(pictures, [""] * count)).reshape(-1, 3)
    seen, counts = np.unique(sheet, axis=0, return_counts=True)
    areas = {tuple(color): int(area) for color, area in zip(seen.tolist(), counts, strict=True)}
    assert all(areas.get(tuple(color), 0) >= TILE**2 for color in colors.reshape(-1, 3).tolist())


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=80))
def test_captions_fit_their_tile(text: str) -> None:
    draw, font = ImageDraw.Draw(Image.new("RGB", (8, 8))), ImageFont.load_default(FONT_SIZE)
    lines = wrap(text, draw, font)
    assert len(lines) <= LINES
    assert all(draw.textlength(line, font) <= TILE for line in lines)


def test_a_caption_that_fits_is_whole() -> None:
    draw, font = ImageDraw.Draw(Image.new("RGB", (8, 8))), ImageFont.load_default(FONT_SIZE)
    assert " ".join(wrap("a photo of a hot air balloon.", draw, font)) == "a photo of a hot air balloon."
