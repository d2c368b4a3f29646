"""Finds the layers of an artifact that need wide sums on processors that add products in pairs."""

from __future__ import annotations

from d4c.quantization.quantized import QuantizedCLIP


def saturating_layers(clip: QuantizedCLIP) -> list[str]:
    """Return the names of the layers in which two products may not fit 16 bits."""
    return [name for name, layer in clip.layers().items() if not layer.pairs_fit()]
