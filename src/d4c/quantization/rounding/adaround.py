"""AdaRound (arXiv 2004.10568) learns for each weight whether to round down or up."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d4c.compiled import can_compile
from d4c.quantization.layers.quantized_weight import QuantizedLayer

ZETA, GAMMA = 1.1, -0.1
"""Limits of the stretched sigmoid, as published; an offset thus reaches 0 and 1 at finite alpha."""


class SoftRounding(nn.Module):
    """The weight of a layer with a trainable offset h between the code below and the code above.

    With h = clamp(sigmoid(T alpha) (zeta - gamma) + gamma, 0, 1) the weight is scale * (floor(w / scale) + h). It
    starts at the float weight, with T = 1. As the temperature T grows, every h goes to 0 or 1, so that the weight
    becomes what `codes` stands for.

    Args:
        layer: The layer, whose scale and zero point stay fixed.
        weight: The float weight [O, ...] to start from.
    """

    def __init__(self, layer: QuantizedLayer, weight: Tensor) -> None:
        super().__init__()
        self.scale, self.zero_point = layer.weight_scale, layer.weight_zero_point
        self.qmin, self.qmax = layer.weight_args.qmin, layer.weight_args.qmax
        exact = (weight / self.scale).contiguous()
        self.floor = exact.floor()
        if (limits := layer.code_limits()) is not None:
            # Between limits of its own a code is learned without being clamped.
            exact = exact.clamp(*limits)
            self.floor = exact.floor().minimum(limits[1] - 1)
        rest = (exact - self.floor).clamp(1e-4, 1 - 1e-4)
        self.alpha = nn.Parameter(torch.logit((rest - GAMMA) / (ZETA - GAMMA)))
        self.temperature = torch.ones((), device=self.alpha.device)

    def offset(self) -> Tensor:
        """The offsets h in [0, 1], of the shape of the weight."""
        return ((self.temperature * self.alpha).sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def forward(self) -> Tensor:
        """The soft weight, of the shape of the weight."""
        if self.alpha.is_cuda and can_compile():
            from d4c.kernels.soft_rounding import soft_weight

            tensors = self.alpha, self.floor, self.scale, self.zero_point, self.temperature
            return soft_weight(*tensors, self.qmin, self.qmax)
        codes = (self.floor + self.offset() + self.zero_point).clamp(self.qmin, self.qmax)
        return (codes - self.zero_point) * self.scale

    def regularizer(self, beta: Tensor) -> Tensor:
        """The sum of 1 - |2h - 1|^beta over all weights, which is zero once every h is 0 or 1."""
        return (1 - (2 * self.offset() - 1).abs().pow(beta)).sum()

    def codes(self) -> Tensor:
        """The integer weights with every h rounded to 0 or 1."""
        up = (self.alpha >= 0).to(self.floor.dtype)
        return (self.floor + up + self.zero_point).clamp(self.qmin, self.qmax)
