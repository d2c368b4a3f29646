"""AdaRound (arXiv 2004.10568): learn for each weight whether to round down or up."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d4c.compiled import can_compile
from d4c.quantization.quantized_layers import QuantizedLayer

ZETA, GAMMA = 1.1, -0.1


class SoftRounding(nn.Module):
    """The weight of a layer with a trainable offset between floor and ceiling.

    h = clamp(sigmoid(T alpha) (zeta - gamma) + gamma, 0, 1); the start is the float weight itself, at T = 1. As the
    temperature T grows, every h goes to 0 or 1 and stays where it is, so that the weight becomes what `codes` says.
    """

    def __init__(self, layer: QuantizedLayer, weight: Tensor) -> None:
        super().__init__()
        self.scale, self.zero_point = layer.weight_scale, layer.weight_zero_point
        self.qmin, self.qmax = layer.weight_args.qmin, layer.weight_args.qmax
        exact = (weight / self.scale).contiguous()
        self.floor = exact.floor()
        rest = (exact - self.floor).clamp(1e-4, 1 - 1e-4)
        self.alpha = nn.Parameter(torch.logit((rest - GAMMA) / (ZETA - GAMMA)))
        self.temperature = torch.ones((), device=self.alpha.device)

    def offset(self) -> Tensor:
        """h in [0, 1]."""
        return ((self.temperature * self.alpha).sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def forward(self) -> Tensor:
        if self.alpha.is_cuda and can_compile():
            from d4c.kernels.soft_rounding import soft_weight

            given = self.alpha, self.floor, self.scale, self.zero_point, self.temperature
            return soft_weight(*given, self.qmin, self.qmax)
        codes = (self.floor + self.offset() + self.zero_point).clamp(self.qmin, self.qmax)
        return (codes - self.zero_point) * self.scale

    def regularizer(self, beta: Tensor) -> Tensor:
        """Sum of 1 - |2h - 1|^beta: zero once every h is 0 or 1."""
        return (1 - (2 * self.offset() - 1).abs().pow(beta)).sum()

    def codes(self) -> Tensor:
        """Integer weights with every h rounded to 0 or 1."""
        up = (self.alpha >= 0).to(self.floor.dtype)
        return (self.floor + up + self.zero_point).clamp(self.qmin, self.qmax)
