"""What the laws of the symmetries are tried on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from d4c.models.clip import CLIP

InputsOf = Callable[[CLIP, str], Tensor]


@pytest.fixture(scope="session")
def inputs_of() -> InputsOf:
    """Two inputs of a tower, in double precision if they are pixels."""

    def inputs(clip: CLIP, tower: str) -> Tensor:
        if tower == "text":
            return clip.tokenize(["a photo of a cat", "two small red dogs on a hill"])
        return torch.randn(2, 3, clip.image_size, clip.image_size, dtype=torch.float64)

    return inputs
