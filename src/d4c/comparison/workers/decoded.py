"""The pictures of a dataset as a model sees them before normalization, which many cells read and few decode."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from d4c.evaluation.batches import pixel_batches
from d4c.evaluation.dataset import PictureSet
from d4c.models.clip import CLIP
from d4c.models.config import Interpolation, Resize
from d4c.models.inputs.preprocess import resized

MOST = 2 << 30
"""Bytes that a process keeps of one dataset; larger ones are decoded for each cell."""
BATCH = 64
"""Pictures that are decoded at once."""


def decode(dataset: PictureSet, size: int, resize: Resize, interpolation: Interpolation) -> Tensor | None:
    """Decode all pictures: uint8 [N, 3, S, S]. None where that is too much to keep, or one of them does not decode."""
    if len(dataset) * 3 * size**2 > MOST:
        return None

    def squares(picture: Image) -> NDArray[np.uint8]:
        return np.array(resized(picture, size, resize, interpolation)).transpose(2, 0, 1)

    skipped: dict[int, str] = {}
    pixels = torch.empty((len(dataset), 3, size, size), dtype=torch.uint8)
    done = 0
    for batch in pixel_batches(dataset, squares, BATCH, skipped):
        pixels[done : done + len(batch)] = batch
        done += len(batch)
    return None if skipped else pixels


def normalized(clip: CLIP, pixels: Tensor, batch: int) -> Iterator[Tensor]:
    """Batches of decoded pictures on the device of a model, as its preprocessing gives them."""
    for part in pixels.split(batch):
        yield clip.normalize(part.to(clip.device).float() / 255)
