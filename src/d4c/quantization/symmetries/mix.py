"""Mixes the channels within each attention head by an invertible matrix; outputs stay equal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d4c.models.anatomy import ChannelAxis
from d4c.models.tower import Tower


@torch.no_grad()
def mix_heads(tower: Tower, axis: ChannelAxis, matrices: Tensor) -> None:
    """Multiply what is written in each head by a matrix, and what reads it by the inverse, in place.

    With a matrix M for a head, q' = M q and k' = M^-T k give the scores q'^T k' = q^T k; v' = M v and W' = W M^-1 give
    the outputs W' v' = W v.

    Args:
        tower: A float tower, before constants were folded.
        axis: One of `tower.channel_axes()` that has heads.
        matrices: One invertible matrix per head [heads, d, d].
    """
    whole = torch.block_diag(*matrices.double())
    inverse = torch.block_diag(*torch.linalg.inv(matrices.double()))
    for name in axis.writers:
        _mix_outputs(tower.get_submodule(name), whole)
    for name in axis.partners:
        _mix_outputs(tower.get_submodule(name), inverse.T)
    for name in axis.readers:
        weight: Tensor = tower.get_submodule(name).weight  # type: ignore[assignment]
        weight.copy_(weight.double() @ inverse)


def _mix_outputs(layer: nn.Module, matrix: Tensor) -> None:
    for parameter in layer.parameters():
        parameter.copy_(matrix @ parameter.double())
