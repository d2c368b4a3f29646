"""Moves one factor per channel from the layers that write an axis to those that read it; outputs stay equal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d4c.models.anatomy import ChannelAxis
from d4c.models.tower import Tower


@torch.no_grad()
def rescale(tower: Tower, axis: ChannelAxis, factors: Tensor) -> None:
    """Multiply the channels of an axis where they are written and divide them where they are read, in place.

    Args:
        tower: A float tower, before constants were folded.
        axis: One of `tower.channel_axes()`.
        factors: One factor per channel [C], not zero, and positive where `axis.positive`.

    Raises:
        ValueError: A factor is zero, not finite, or negative where the axis allows only positive ones.
    """
    if not bool(factors.isfinite().all()) or bool((factors <= 0 if axis.positive else factors == 0).any()):
        needed = "positive" if axis.positive else "nonzero"
        raise ValueError(
            f"The factors of {axis.name} are not all finite and {needed}; give one such factor per channel."
        )
    norms = dict(tower.batch_norms())
    for writer in axis.writers:
        _scale_outputs(tower, writer, factors, norms)
    for partner in axis.partners:
        _scale_outputs(tower, partner, 1 / factors, norms)
    for reader in axis.readers:
        weight: Tensor = tower.get_submodule(reader).weight  # type: ignore[assignment]
        weight.div_(factors.view(-1, *[1] * (weight.ndim - 2)))


def _scale_outputs(tower: Tower, name: str, factors: Tensor, norms: dict[str, str]) -> None:
    """Scale the columns of a parameter, or the output channels of a layer: in the BatchNorm that follows it, if any."""
    parameter = dict(tower.named_parameters()).get(name)
    if parameter is not None:
        parameter.mul_(factors)
        return
    norm = tower.get_submodule(norms[name]) if name in norms else nn.Identity()
    module = tower.get_submodule(name) if isinstance(norm, nn.Identity) else norm
    weight: Tensor = module.weight  # type: ignore[assignment]
    weight.mul_(factors.view(-1, *[1] * (weight.ndim - 1)))
    bias: Tensor | None = module.bias  # type: ignore[assignment]
    if bias is not None:
        bias.mul_(factors)
