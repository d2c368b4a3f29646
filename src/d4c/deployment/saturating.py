"""Finds the layers of an artifact that need wide sums on processors that add products in pairs."""

from __future__ import annotations

from d4c.models.clip import CLIP
from d4c.quantization.layers.quantized_weight import weighted_layers


def saturating_layers(clip: CLIP) -> list[str]:
    """Return the names of the layers in which two products may not fit 16 bits."""
    return [name for name, layer in weighted_layers(clip).items() if not layer.pairs_fit()]
