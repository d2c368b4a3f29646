"""Image embeddings for an objective, with what enters chosen layers on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from d4c.models.clip import CLIP
from d4c.synthesis.config import SynthesisConfig


def encode(clip: CLIP, pixels: Tensor, config: SynthesisConfig) -> Tensor:
    """Image embeddings in the type of the pixels, computed in the configured precision."""
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        return clip.encode_image(pixels).to(pixels.dtype)


def encode_and_record(
    clip: CLIP, pixels: Tensor, config: SynthesisConfig, layers: Sequence[nn.Module]
) -> tuple[Tensor, list[Tensor]]:
    """Embeddings as `encode` gives them, and what enters each layer, in the order of `layers` and with gradients."""
    found: dict[nn.Module, Tensor] = {}

    def record(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        found[layer] = inputs[0].to(pixels.dtype)

    handles = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        features = encode(clip, pixels, config)
    finally:
        for handle in handles:
            handle.remove()
    return features, [found[layer] for layer in layers]
