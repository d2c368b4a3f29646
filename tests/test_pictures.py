"""Pictures of every kind open, and damaged ones are refused by name."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from d4c.errors import DataError
from d4c.pictures import on_white, open_picture


@given(st.integers(0, 255), st.integers(0, 255))
def test_transparency_shows_white(alpha: int, gray: int) -> None:
    shown = on_white(Image.new("RGBA", (1, 1), (gray, gray, gray, alpha))).getpixel((0, 0))
    assert shown == pytest.approx((255 + (gray - 255) * alpha / 255,) * 3, abs=1)


def test_a_palette_with_a_transparent_color_shows_white() -> None:
    stream = io.BytesIO()
    blue = Image.new("RGB", (4, 4), "blue").convert("P")
    blue.save(stream, "GIF", transparency=blue.getpixel((0, 0)))
    assert on_white(Image.open(stream)).getpixel((0, 0)) == (255, 255, 255)


def test_opaque_pictures_are_left_alone() -> None:
    picture = Image.new("L", (4, 4), 76)
    assert on_white(picture) is picture


DAMAGES = {
    "empty": lambda data: b"",
    "text": lambda data: b"hello",
    "half": lambda data: data[: len(data) // 2],
    "header only": lambda data: data[:33],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_refused_by_name(damage: object, tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.effect_noise((40, 40), 50).save(stream, "PNG")
    file = tmp_path / "holiday.png"
    file.write_bytes(damage(stream.getvalue()))  # type: ignore[operator]
    with pytest.raises(DataError, match=r"holiday\.png does not decode as an image \(.*\); repair it or leave it out"):
        open_picture(file)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png does not decode"):
        open_picture(tmp_path / "gone.png")
