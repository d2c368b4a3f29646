"""Pixels are those of open_clip's evaluation transform of the picture as RGB, to one of 255 steps."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from d4c.errors import DataError
from d4c.models.clip import CLIP
from d4c.models.config import OPENAI_MEAN, OPENAI_STD
from d4c.models.inputs.preprocess import pixels, resized
from d4c.pictures import as_rgb

ONE_STEP = 1 / 255 / min(OPENAI_STD) + 1e-6


def noise(mode: str, width: int, height: int) -> Image.Image:
    """Return a picture of random bytes in any mode."""
    rng = np.random.default_rng(width * height)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 1 << 16, (height, width), np.uint16))
    if mode in ("1", "P", "F", "I"):
        return noise("RGB", width, height).convert(mode)
    channels = len(Image.new(mode, (1, 1)).getbands())
    shape = (height, width, channels) if channels > 1 else (height, width)
    return Image.frombytes(mode, (width, height), rng.integers(0, 256, shape, np.uint8).tobytes())


def as_tensor(picture: Image.Image, size: int) -> torch.Tensor:
    return torch.from_numpy(pixels(picture, size, OPENAI_MEAN, OPENAI_STD))


def rotated_by_exif() -> Image.Image:
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    noise("RGB", 60, 90).save(stream, "JPEG", exif=exif)
    return Image.open(stream)


def animated() -> Image.Image:
    stream = io.BytesIO()
    noise("P", 50, 40).save(stream, "GIF", save_all=True, append_images=[noise("P", 50, 40).rotate(180)])
    return Image.open(stream)


def see_through_palette() -> Image.Image:
    picture = noise("P", 80, 70)
    picture.info["transparency"] = 3
    return picture


PICTURES = {
    mode: noise(mode, 100, 75) for mode in ("RGB", "RGBA", "L", "LA", "1", "P", "CMYK", "I;16", "I", "F", "YCbCr")
}
PICTURES |= {
    "900 x 1": noise("RGB", 900, 1),
    "1 x 900": noise("RGB", 1, 900),
    "1 x 1": noise("L", 1, 1),
    "3 x 2": noise("RGBA", 3, 2),
    "already right": noise("RGB", 64, 64),
    "right height": noise("RGB", 101, 64),
    "odd": noise("RGB", 333, 127),
    "EXIF": rotated_by_exif(),
    "GIF": animated(),
    "transparent palette": see_through_palette(),
}


@pytest.fixture(scope="module")
def reference() -> dict[int, Any]:
    transform = pytest.importorskip("open_clip.transform")
    return {size: transform.image_transform(size, is_train=False) for size in (64, 97)}


@pytest.mark.parametrize("size", [64, 97])
@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES.keys())
def test_pixels_are_open_clips_within_a_step(picture: Image.Image, size: int, reference: dict[int, Any]) -> None:
    ours = as_tensor(picture, size)
    theirs = reference[size](as_rgb(picture))
    assert ours.shape == theirs.shape == (3, size, size)
    assert float((ours - theirs).abs().max()) <= ONE_STEP


@settings(deadline=None, max_examples=50)
@given(width=st.integers(5, 300), height=st.integers(5, 300))
def test_pixels_of_any_size_are_open_clips_within_a_step(width: int, height: int, reference: dict[int, Any]) -> None:
    picture = noise("RGB", width, height)
    difference = as_tensor(picture, 64) - reference[64](picture)
    assert float(difference.abs().max()) <= ONE_STEP


def test_a_strip_costs_no_more_than_a_square() -> None:
    strip = Image.new("RGB", (1, 200_000), "red")
    assert resized(strip, 224).getextrema() == ((255, 255), (0, 0), (0, 0))


def test_mean_and_std_are_the_models(demo: CLIP) -> None:
    flat = demo.preprocess(Image.new("RGB", (9, 9), (255, 0, 51)))
    expected = (torch.tensor([1, 0, 0.2]) - torch.tensor(demo.config.mean)) / torch.tensor(demo.config.std)
    assert torch.allclose(flat, expected[:, None, None].expand_as(flat))


def test_an_empty_picture_is_refused() -> None:
    with pytest.raises(DataError, match="0 x 7 pixels, expected at least 1 x 1"):
        pixels(Image.new("RGB", (0, 7)), 64, OPENAI_MEAN, OPENAI_STD)
