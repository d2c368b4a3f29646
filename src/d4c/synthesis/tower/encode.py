"""Image embeddings for an objective, with what enters chosen layers on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from d4c.models.clip import CLIP


def tower_dtype(clip: CLIP) -> torch.dtype:
    """What the image tower computes in."""
    return next(clip.image.parameters()).dtype


def encode(clip: CLIP, pixels: Tensor) -> Tensor:
    """Image embeddings, float32 unless the tower is of a finer type, computed in the type of the tower."""
    features = clip.encode_image(pixels.to(tower_dtype(clip)))
    return features.to(torch.promote_types(features.dtype, torch.float32))


def encode_and_record(clip: CLIP, pixels: Tensor, layers: Sequence[nn.Module]) -> tuple[Tensor, list[Tensor]]:
    """Embeddings as `encode` gives them, and what enters each layer, in the order of `layers` and with gradients."""
    found: dict[nn.Module, Tensor] = {}

    def record(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        found[layer] = inputs[0].to(pixels.dtype)

    handles = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        features = encode(clip, pixels)
    finally:
        for handle in handles:
            handle.remove()
    return features, [found[layer] for layer in layers]
