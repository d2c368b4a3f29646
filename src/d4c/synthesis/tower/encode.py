"""Encodes images for an objective and records the inputs of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from d4c.models.clip import CLIP


def tower_dtype(clip: CLIP) -> torch.dtype:
    """Return the type that the image tower computes in."""
    return next(clip.image.parameters()).dtype


def encode(clip: CLIP, pixels: Tensor) -> Tensor:
    """Encode pixels [N, 3, S, S] in the type of the tower, to embeddings [N, D] in at least float32."""
    features = clip.encode_image(pixels.to(tower_dtype(clip)))
    return features.to(torch.promote_types(features.dtype, torch.float32))


def encode_and_record(clip: CLIP, pixels: Tensor, layers: Sequence[nn.Module]) -> tuple[Tensor, list[Tensor]]:
    """Encode images and record the inputs of layers.

    Args:
        clip: The model.
        pixels: Normalized pixels [N, 3, S, S].
        layers: Layers of the image tower.

    Returns:
        Embeddings [N, D], and the input of each layer in the type of the pixels, with gradients.
    """
    layer_inputs: dict[nn.Module, Tensor] = {}

    def record(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        layer_inputs[layer] = inputs[0].to(pixels.dtype)

    handles = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        features = encode(clip, pixels)
    finally:
        for handle in handles:
            handle.remove()
    return features, [layer_inputs[layer] for layer in layers]
