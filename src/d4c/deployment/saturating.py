"""Finds the layers of an artifact that need wide sums on processors that add products in pairs."""

from __future__ import annotations

from d4c.quantization.formats.pair_sums import pairs_fit
from d4c.quantization.quantized import QuantizedCLIP
from d4c.quantization.quantized_layers import QuantizedConv2d, QuantizedLayer, QuantizedLinear


def saturates(layer: QuantizedLayer) -> bool:
    """Whether two products of a layer may not fit 16 bits; a token table multiplies nothing."""
    if not isinstance(layer, QuantizedLinear | QuantizedConv2d):
        return False
    return not all(pairs_fit(int(codes.abs().max()), quantizer.args.qmax) for quantizer, codes in layer.code_parts())


def saturating_layers(clip: QuantizedCLIP) -> list[str]:
    """Return the names of the layers in which two products may not fit 16 bits."""
    return [name for name, layer in clip.layers().items() if saturates(layer)]
