"""How wide the inputs of layers are: in the checkpoint, after it was rewritten, and what the quantizer covers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from d4c.inspection.activations import Range, watch_ranges
from d4c.inspection.features import unit_features
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer

if TYPE_CHECKING:
    from torch import Tensor

    from d4c.models.clip import CLIP
    from d4c.quantization.quantized import QuantizedCLIP


@dataclass(frozen=True)
class ActivationRange:
    """The input of one layer of the image tower on calibration images.

    Attributes:
        name: Name of the layer.
        bits: Bits of its input.
        checkpoint: What the input of the layer spans in the checkpoint.
        rewritten: What it spans in the form that was quantized.
        low: Smallest value that the quantizer represents.
        high: Largest value that the quantizer represents.
    """

    name: str
    bits: int
    checkpoint: Range
    rewritten: Range
    low: float
    high: float


def activation_ranges(clip: CLIP, form: CLIP, quantized: QuantizedCLIP, pixels: Tensor) -> tuple[ActivationRange, ...]:
    """Compare the ranges of the inputs of layers before and after.

    Args:
        clip: The float model as its checkpoint has it.
        form: The float model in the form that was quantized.
        quantized: The quantized model.
        pixels: Calibration pixels [N, 3, S, S].

    Returns:
        The layers in order; of layers that read one tensor, the first.
    """
    before, after = _ranges(clip, pixels), _ranges(form, pixels)
    rows = []
    for name in before.keys() & after.keys():
        quantizer = getattr(quantized.get_submodule(name), "input_quantizer", None)
        if isinstance(quantizer, ActivationQuantizer):
            low, high = _covered(quantizer)
            rows.append(ActivationRange(name, quantizer.args.num_bits, before[name], after[name], low, high))
    order = list(before)
    return tuple(sorted(rows, key=lambda row: order.index(row.name)))


def _ranges(clip: CLIP, pixels: Tensor) -> dict[str, Range]:
    with watch_ranges(clip) as recorder:
        unit_features(clip, pixels)
    return recorder.by_layer()


def _covered(quantizer: ActivationQuantizer) -> tuple[float, float]:
    """Smallest and largest value of a quantizer, over its channels if it has several scales."""
    scale, zero = quantizer.scale.detach(), quantizer.zero_point
    ends = torch.stack([(quantizer.args.qmin - zero) * scale, (quantizer.args.qmax - zero) * scale])
    return float(ends.min()), float(ends.max())
