"""Pictures to normalised pixels."""
from __future__ import annotations
from PIL.Image import Image
from torch import Tensor
def preprocess(image: Image, size: int, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Tensor:
    raise NotImplementedError
