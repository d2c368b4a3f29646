"""Fake quantizers of activations, with loud channels and the class token in quantizers of their own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from d4c.quantization.formats.affine import fake_quantize, quantize
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.ranges.observer import Observer

WIDE_FORMAT = QuantArgs(8, False, "tensor")
"""Number format of loud channels and of the class token, whatever the bits of the others."""


class ActivationQuantizer(nn.Module):
    """Fake quantizer of an activation: per tensor, or per channel of the last axis.

    While `observer` is set, the quantizer records what it sees and passes it on in float.

    Args:
        args: Number format of the activation.
        channels: Length C of the last axis, needed for one scale per channel and for loud channels.
        loud: Loud channels in rising order, which have a quantizer of their own.
        class_token: Whether the first row of [N, L, C] has a quantizer of its own, but for its loud channels.

    Raises:
        ValueError: The loud channels are all channels, are not in rising order or not below C, or the format has one
            scale per channel.

    Attributes:
        loud: Quantizer of the loud channels, in `WIDE_FORMAT`; None if there are none.
        class_token: Quantizer of the first row, likewise.
        loud_channels: Indices of the loud channels, int64.
        quiet_channels: Indices of all others.
        scale: One number [], or one per channel [C].
        zero_point: An integer in a float tensor, of the shape of `scale`.
        observer: Collects the activations that the range is chosen from.
        enabled: False to pass activations on in float.
        drop: Probability that an element stays float during reconstruction (QDrop, arXiv 2203.05740).
    """

    def __init__(
        self, args: QuantArgs, channels: int | None = None, loud: Sequence[int] = (), class_token: bool = False
    ) -> None:
        super().__init__()
        self.args = args
        self.class_token = ActivationQuantizer(WIDE_FORMAT) if class_token else None
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
        self.loud = ActivationQuantizer(WIDE_FORMAT)
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
            self._observe(x, self.observer)
            return x
        if not self.enabled:
            return x
        y = self._rounded(x)
        if self.class_token is not None:
            y = torch.cat([self.class_token(x[:, :1]), y[:, 1:]], 1)
        if self.loud is not None:
            y = y.index_copy(-1, self.loud_channels, self.loud(x.index_select(-1, self.loud_channels)))
        return y

    def _observe(self, x: Tensor, observer: Observer) -> None:
        """Show every value to the observer of the quantizer that rounds it."""
        if self.loud is not None:
            self.loud(x.index_select(-1, self.loud_channels))
            x = x.index_select(-1, self.quiet_channels)
        if self.class_token is not None:
            self.class_token(x[:, :1])
            x = x[:, 1:]
        observer.add(x)

    def _rounded(self, x: Tensor) -> Tensor:
        dropped = torch.rand_like(x) < self.drop if self.drop else None
        return fake_quantize(x, self.scale, self.zero_point, self.args.qmin, self.args.qmax, dropped)

    def codes(self, x: Tensor) -> Tensor:
        """Integer codes of x, without loud channels and class token, in float64, whose sums of products are exact."""
        return quantize(x, self.scale, self.zero_point, self.args.qmin, self.args.qmax).double()

    def set_range(self, scale: Tensor, zero_point: Tensor) -> None:
        """Take a scale and a zero point, each of the shape of `scale`."""
        with torch.no_grad():
            self.scale.copy_(scale)
            self.zero_point.copy_(zero_point)
