"""Fake quantizers of activations, with loud channels as a second quantizer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from d4c.quantization.formats.affine import fake_quantize, quantize
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.ranges.observer import Observer

LOUD_FORMAT = QuantArgs(8, False, "tensor")
"""Number format of loud channels, whatever the bits of the others."""


class ActivationQuantizer(nn.Module):
    """Fake quantizer of an activation: per tensor, or per channel of the last axis.

    While `observer` is set, the quantizer records what it sees and passes it on in float.

    Args:
        args: Number format of the activation.
        channels: Length C of the last axis, needed for one scale per channel and for loud channels.
        loud: Loud channels in rising order, which have a quantizer of their own.

    Raises:
        ValueError: The loud channels are all channels, are not in rising order or not below C, or the format has one
            scale per channel.

    Attributes:
        loud: Quantizer of the loud channels, in `LOUD_FORMAT`; None if there are none.
        loud_channels: Indices of the loud channels, int64.
        quiet_channels: Indices of all others.
        scale: One number [], or one per channel [C].
        zero_point: An integer in a float tensor, of the shape of `scale`.
        observer: Collects the activations that the range is chosen from.
        enabled: False to pass activations on in float.
        drop: Probability that an element stays float during reconstruction (QDrop, arXiv 2203.05740).
    """

    def __init__(self, args: QuantArgs, channels: int | None = None, loud: Sequence[int] = ()) -> None:
        super().__init__()
        self.args = args
        self.loud: ActivationQuantizer | None = None
        if loud:
            self._set_loud(channels or 0, list(loud))
        shape = (channels,) if args.strategy == "channel" and channels else ()
        self.scale = nn.Parameter(torch.ones(shape), requires_grad=False)
        self.zero_point: Tensor
        self.register_buffer("zero_point", torch.zeros(shape))
        self.observer: Observer | None = None
        self.enabled = True
        self.drop = 0.0

    def _set_loud(self, channels: int, loud: list[int]) -> None:
        rising = all(a < b for a, b in pairwise([-1, *loud, channels]))
        if not rising or len(loud) == channels or self.args.strategy == "channel":
            raise ValueError(
                f"The loud channels {loud} are not rising indices of some of {channels} channels of one scale; "
                "give such indices."
            )
        self.loud = ActivationQuantizer(LOUD_FORMAT)
        self.groups = loud, sorted({*range(channels)} - {*loud})
        self.loud_channels: Tensor
        self.quiet_channels: Tensor
        self.place_channels()

    def place_channels(self) -> None:
        """Make the indices of the loud and the quiet channels, which are no part of a state dict."""
        for name, indices in zip(("loud_channels", "quiet_channels"), self.groups, strict=True):
            self.register_buffer(name, torch.tensor(indices), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.observer is not None:
            self.observer.add(x if self.loud is None else x.index_select(-1, self.quiet_channels))
        elif not self.enabled:
            return x
        if self.loud is None:
            return x if self.observer is not None else self._rounded(x)
        loud = self.loud(x.index_select(-1, self.loud_channels))
        return x if self.observer is not None else self._rounded(x).index_copy(-1, self.loud_channels, loud)

    def _rounded(self, x: Tensor) -> Tensor:
        dropped = torch.rand_like(x) < self.drop if self.drop else None
        return fake_quantize(x, self.scale, self.zero_point, self.args.qmin, self.args.qmax, dropped)

    def codes(self, x: Tensor) -> Tensor:
        """Integer codes of x, without loud channels, in a float64 tensor, whose sums of products are exact."""
        return quantize(x, self.scale, self.zero_point, self.args.qmin, self.args.qmax).double()

    def set_range(self, scale: Tensor, zero_point: Tensor) -> None:
        """Take a scale and a zero point, each of the shape of `scale`."""
        with torch.no_grad():
            self.scale.copy_(scale)
            self.zero_point.copy_(zero_point)
