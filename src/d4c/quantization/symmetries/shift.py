"""Moves a constant per channel from what writes an axis into the biases of what reads it; outputs stay equal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d4c.models.anatomy import ChannelAxis
from d4c.models.tower import Tower


@torch.no_grad()
def shift(tower: Tower, axis: ChannelAxis, offsets: Tensor) -> None:
    """Add a constant to each channel of an axis where it is written and take it back where it is read, in place.

    Keys take any constant without a counterpart: it adds the same to all scores of a query, which a softmax ignores.
    Values take one because the weights of a softmax sum to 1.

    Args:
        tower: A float tower, before constants were folded.
        axis: One of `tower.channel_axes()`. Where it has partners, only they are shifted.
        offsets: One number per channel [C].

    Raises:
        ValueError: A ReLU lies between writers and readers, or one of them has no bias.
    """
    writers = [tower.get_submodule(name) for name in axis.partners or axis.writers]
    readers = [tower.get_submodule(name) for name in axis.readers]
    if not takes_shift(tower, axis):
        raise ValueError(
            f"A constant cannot move along {axis.name}; shift axes without ReLU, whose layers have biases."
        )
    for reader in readers:
        _bias(reader).sub_(reader.weight @ offsets)  # type: ignore[operator]
    for writer in writers:
        _bias(writer).add_(offsets)


def takes_shift(tower: Tower, axis: ChannelAxis) -> bool:
    """Whether all layers of an axis have a bias for a constant to go into, and no ReLU lies between them."""
    names = axis.partners or (*axis.writers, *axis.readers)
    modules = dict(tower.named_modules())
    return not axis.positive and all(getattr(modules.get(name), "bias", None) is not None for name in names)


def _bias(layer: nn.Module) -> Tensor:
    bias: Tensor = layer.bias  # type: ignore[assignment]
    return bias
