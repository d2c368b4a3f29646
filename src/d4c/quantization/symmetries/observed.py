"""What passes through the channel axes of a float tower: ranges and moments, from calibration data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from d4c.models.anatomy import ChannelAxis
from d4c.models.tower import Tower

BATCH = 64


class Observed:
    """The channels of one tensor over all samples.

    Args:
        heads: Number of heads whose second moments are needed; 0 if none are.

    Attributes:
        low: Smallest value of each channel [C].
        high: Largest value of each channel [C].
    """

    def __init__(self, heads: int = 0) -> None:
        self.heads, self.count = heads, 0
        self.low = self.high = torch.empty(0)
        self._sum = self._squares = self._moments = torch.empty(0)

    def add(self, x: Tensor) -> None:
        """Take in a batch."""
        rows = x.movedim(1 if x.ndim == 4 else -1, -1).flatten(0, -2).double()
        low, high = rows.aminmax(dim=0)
        parts = [rows.sum(0), rows.square().sum(0)]
        if self.heads:
            by_head = rows.unflatten(1, (self.heads, -1))
            parts.append(torch.einsum("nhi,nhj->hij", by_head, by_head))
        if self.count:
            low, high = torch.minimum(low, self.low), torch.maximum(high, self.high)
            parts = [a + b for a, b in zip(parts, (self._sum, self._squares, self._moments), strict=False)]
        self.low, self.high = low, high
        self._sum, self._squares, self._moments = (*parts, self._moments)[:3]
        self.count += len(rows)

    @property
    def mean(self) -> Tensor:
        """Mean of each channel [C]."""
        return self._sum / self.count

    @property
    def deviation(self) -> Tensor:
        """Standard deviation of each channel [C]."""
        return (self._squares / self.count - self.mean.square()).clamp(min=0).sqrt()

    @property
    def width(self) -> Tensor:
        """Length of the interval that holds zero and all values of a channel [C]."""
        return self.high.clamp(min=0) - self.low.clamp(max=0)

    def moments(self, centered: bool = False) -> Tensor:
        """Second moments of the channels of each head [heads, d, d], about zero or about the mean."""
        moments = self._moments / self.count
        if not centered:
            return moments
        mean = self.mean.unflatten(0, (self.heads, -1))
        return moments - mean[:, :, None] * mean[:, None]


Observations = dict[str, Observed]
"""By "NAME" for the output of a layer, and by "NAME.input" for its input."""


@torch.no_grad()
def observe(tower: Tower, inputs: Tensor, axes: Sequence[ChannelAxis]) -> Observations:
    """Run samples through a tower and record what the layers of some axes write and read.

    What is the same for all samples, such as the begin of a text, is left out: no quantizer sees it.

    Args:
        tower: A float tower, which is left as it is.
        inputs: Pixels [N, 3, S, S] or tokens [N, L].
        axes: Some of `tower.channel_axes()`.
    """
    watched = copy.deepcopy(tower)
    watched.fold_constants(inputs)
    modules = dict(watched.named_modules())
    observations: Observations = {}
    for axis in axes:
        for name in (*axis.writers, *axis.partners):
            if name in modules:  # a parameter that is added has no output of its own
                observations[name] = Observed(axis.heads)
                modules[name].register_forward_hook(_output_hook(observations[name]))
        for name in axis.readers:
            observations[f"{name}.input"] = Observed(axis.heads)
            modules[name].register_forward_pre_hook(_input_hook(observations[f"{name}.input"]))
    for batch in watched.batches(inputs, BATCH):
        watched(batch)
    return observations


def _output_hook(observed: Observed) -> Callable[[nn.Module, Any, Tensor], None]:
    return lambda _module, _inputs, output: observed.add(output)


def _input_hook(observed: Observed) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    return lambda _module, inputs: observed.add(inputs[0])
