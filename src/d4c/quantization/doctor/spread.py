"""How far the ranges of channels lie apart at each axis of a tower, and which channels are dead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from d4c.models.anatomy import ChannelAxis
from d4c.models.tower import Tower
from d4c.quantization.doctor.diagnosis import Spread
from d4c.quantization.symmetries.observed import Observed

SILENT = 1e-4
"""A channel is dead if it varies less than so much of what most others do, weights that read it included."""
MOST = 0.9
"""Quantile of the channels that the others are compared with; half of the channels of a ReLU may be silent."""


def spread(axis: ChannelAxis, observations: Mapping[str, Observed]) -> Spread:
    """The worst spread of all tensors that hold the axis."""
    spreads = [_spread(observed.width) for observed in _tensors(axis, observations)]
    return max(spreads, key=lambda spread: spread.ratio)


def channel_count(axis: ChannelAxis, observations: Mapping[str, Observed]) -> int:
    """How many channels an axis has."""
    return len(_tensors(axis, observations)[0].low)


def dead_channels(tower: Tower, axis: ChannelAxis, observations: Mapping[str, Observed]) -> tuple[int, ...]:
    """Channels that are constant on all samples, or that no layer reads."""
    if axis.heads:  # Channels of a head have no meaning of their own.
        return ()
    effects = [
        observations[f"{name}.input"].deviation * _columns(cast("nn.Linear | nn.Conv2d", tower.get_submodule(name)))
        for name in axis.readers
    ]
    return silent(torch.stack(effects).amax(0))


def silent(deviations: Tensor) -> tuple[int, ...]:
    """Channels whose deviation is next to nothing beside that of the others [C]."""
    return tuple((deviations < SILENT * deviations.quantile(MOST)).nonzero().flatten().tolist())


def _tensors(axis: ChannelAxis, observations: Mapping[str, Observed]) -> list[Observed]:
    names = [f"{name}.input" for name in axis.readers] or [*axis.writers, *axis.partners]
    return [observations[name] for name in names]


def _spread(widths: Tensor) -> Spread:
    live = widths[widths > SILENT * widths.quantile(MOST)]
    if not len(live):
        return Spread(1.0, 1.0)
    median = live.median()
    return Spread(float(live.max() / median), float(median / live.min()))


def _columns(layer: nn.Linear | nn.Conv2d) -> Tensor:
    """Length of the column of weights that reads each channel [C], in double precision."""
    weight = layer.weight.double()
    return weight.transpose(0, 1).flatten(1).norm(dim=1)
