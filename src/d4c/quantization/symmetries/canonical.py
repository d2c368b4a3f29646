"""Brings a tower into one form, whichever of the equal forms it came in.

A network can be written in many equal ways: channels scaled where they are written and scaled back where they are read,
heads mixed, constants moved. Quantization sees the form and not only the function. So ranges and weights decide one
form, from quantities that are the same in every form:

- constants: the channels of a LayerNorm get the middle of their range at zero where all readers have a bias, keys
  their mean. Values keep theirs: what a model attends to in order to do nothing has a value near zero, which a constant
  would destroy (benchmarks/forms).
- factors: `strength` has the family; the bits of the inputs choose in it.
- heads: `heads` has the basis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from d4c.models.anatomy import ChannelAxis
from d4c.models.tower import Tower
from d4c.progress import Progress, silent
from d4c.quantization.placement import LayerPlan, Plan
from d4c.quantization.symmetries.heads import balanced_basis, shrunk
from d4c.quantization.symmetries.mix import mix_heads
from d4c.quantization.symmetries.observed import Observations, Observed, observe
from d4c.quantization.symmetries.rescale import rescale
from d4c.quantization.symmetries.shift import shift, takes_shift
from d4c.quantization.symmetries.strength import columns, factors

FEW_BITS = 6
"""Inputs of so many bits need channels of similar widths as much as weights need even columns."""
RARELY_ALIVE = 1.0
"""A channel behind a ReLU counts as at least as wide as so many standard deviations before the ReLU: it may be silent
on a few calibration images and not on others."""


@torch.no_grad()
def canonicalize(
    tower: Tower,
    name: str,
    inputs: Tensor,
    plan: Plan,
    progress: Progress = silent,
) -> None:
    """Rewrite a float tower in place; its outputs stay equal.

    Args:
        tower: The tower, whose BatchNorm is folded and whose constants are not.
        name: "image" or "text", as layers are named in `plan`.
        inputs: A few dozen samples: pixels [N, 3, S, S] or tokens [N, L].
        plan: The formats that the layers will be quantized in.
        progress: Called with the axes done and their number.
    """
    # The bases of heads depend on the form of what q, k and v read.
    axes = sorted(tower.channel_axes(), key=lambda axis: axis.heads > 0)
    observations = observe(tower, inputs, axes)
    dtype = next(tower.parameters()).dtype
    tower.double()
    metrics = _metrics(tower, axes, observations)
    for done, axis in enumerate(axes, 1):
        if axis.heads:
            _balance_heads(tower, axis, observations)
        else:
            _rescale(tower, axis, name, observations, metrics, plan)
        progress(done, len(axes))
    tower.to(dtype)


def _metrics(tower: Tower, axes: Sequence[ChannelAxis], observations: Observations) -> dict[str, Tensor]:
    """What the channels of heads count for where they are read [heads, d, d], by the layer that writes them."""
    metrics = {}
    for axis in axes:
        if axis.heads and axis.partners:
            (queries,), (keys,) = axis.writers, axis.partners
            metrics[queries] = observations[keys].moments(centered=True)
            metrics[keys] = observations[queries].moments()
        elif axis.heads:
            (values,) = axis.writers
            columns = _head_columns(tower, axis)
            metrics[values] = columns @ columns.mT
    return metrics


def _head_columns(tower: Tower, axis: ChannelAxis) -> Tensor:
    """The columns that read the channels of each head [heads, d, outputs]."""
    (reader,) = axis.readers
    return _product(tower, reader).weight.T.unflatten(0, (axis.heads, -1))


def _rescale(
    tower: Tower,
    axis: ChannelAxis,
    name: str,
    observations: Observations,
    metrics: Mapping[str, Tensor],
    plan: Plan,
) -> None:
    inputs = [observations[f"{reader}.input"] for reader in axis.readers]
    offsets = torch.zeros_like(inputs[0].low)
    if takes_shift(tower, axis):
        offsets = -(inputs[0].low + inputs[0].high) / 2
        shift(tower, axis, offsets)
    readers = [reader for reader in axis.readers if f"{name}.{reader}" in plan]
    if readers:
        widths = _widths(axis, inputs, [observations[w] for w in axis.writers if w in observations], offsets)
        sizes = columns([_product(tower, r) for r in readers], [metrics.get(r) for r in readers], widths)
        strength = _strength(axis, [plan[f"{name}.{reader}"] for reader in readers])
        rescale(tower, axis, 1 / factors(widths, sizes, strength))


def _widths(axis: ChannelAxis, inputs: Sequence[Observed], outputs: Sequence[Observed], offsets: Tensor) -> Tensor:
    """How wide each channel is, over all tensors that hold it [C]."""
    widths = torch.stack([(seen.high + offsets).clamp(min=0) - (seen.low + offsets).clamp(max=0) for seen in inputs])
    if not axis.positive:
        return widths.amax(0)
    before = torch.stack([seen.deviation for seen in outputs]).square().sum(0).sqrt()
    if len(outputs) > 1:  # a residual stream: what is added to it is quantized as well
        widths = torch.cat([widths, torch.stack([seen.width for seen in outputs])])
    return torch.maximum(widths.amax(0), RARELY_ALIVE * before)


def _strength(axis: ChannelAxis, plans: Sequence[LayerPlan]) -> float:
    """Even columns; both sides share where inputs after a LayerNorm have few bits (benchmarks/choices).

    Channels of one width would leave no room beyond what calibration showed of each, above all before a projection,
    which reads one row of an image.
    """
    few = any(plan.inputs[0].num_bits <= FEW_BITS for plan in plans)
    return 0.5 if few and not axis.positive else 0.0


def _balance_heads(tower: Tower, axis: ChannelAxis, observations: Observations) -> None:
    (writer,) = (cast(nn.Linear, tower.get_submodule(name)) for name in axis.writers)
    by_head = (axis.heads, -1)
    weight = writer.weight.unflatten(0, by_head)
    written = observations[axis.writers[0]]
    if axis.partners:
        (name,) = axis.partners
        partner = cast(nn.Linear, tower.get_submodule(name))
        shift(tower, axis, -observations[name].mean)
        other = partner.weight.unflatten(0, by_head)
        moments = shrunk(written.moments(), weight @ weight.mT)
        read = shrunk(observations[name].moments(centered=True), other @ other.mT)
    else:
        (name,) = axis.readers
        columns = _head_columns(tower, axis)
        moments = shrunk(written.moments() + observations[f"{name}.input"].moments(), weight @ weight.mT)
        read = columns @ columns.mT
        read = shrunk(read, torch.linalg.inv(moments))
    mix_heads(tower, axis, balanced_basis(moments, read, weight))


def _product(tower: Tower, name: str) -> nn.Linear | nn.Conv2d:
    layer = tower.get_submodule(name)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    return layer
