"""Other forms of a CLIP: the same function, written with channel scales as uneven as long training leaves them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from d4c.models.clip import CLIP, TOWERS
from d4c.models.tower import ChannelAxis, Tower
from d4c.quantization.symmetries.rescale import rescale


@torch.no_grad()
def uneven(clip: CLIP, sigma: float, seed: int) -> CLIP:
    """A CLIP with the same float outputs.

    Every channel axis of both towers gets log-normal factors, and the channels of each attention head are rotated.

    Args:
        clip: The float model, which is left as it is.
        sigma: Standard deviation of the logarithm of the factors; 0 gives a plain copy.
        seed: Seed of factors and rotations.
    """
    changed = copy.deepcopy(clip)
    if not sigma:
        return changed
    generator = torch.Generator().manual_seed(seed)
    changed.double()
    for name in TOWERS:
        tower = changed.tower(name)
        for axis in tower.channel_axes():
            channels = _channels(tower, axis)
            normal = torch.randn(channels, generator=generator, dtype=torch.float64)
            rescale(tower, axis, (sigma * normal).exp().to(clip.device))
            if axis.heads:
                _rotate_heads(tower, axis, channels // axis.heads, generator)
    return changed.float()


def _channels(tower: Tower, axis: ChannelAxis) -> int:
    weight: Tensor = tower.get_submodule(axis.writers[0]).weight  # type: ignore[assignment]
    return len(weight)


def _rotate_heads(tower: Tower, axis: ChannelAxis, size: int, generator: torch.Generator) -> None:
    """Rotate what the writers and the partners write within each head, and back what the readers read."""
    blocks = [torch.randn(size, size, generator=generator, dtype=torch.float64) for _ in range(axis.heads)]
    rotation = torch.block_diag(*(torch.linalg.qr(block).Q for block in blocks))
    for name in (*axis.writers, *axis.partners):
        layer = tower.get_submodule(name)
        rotation = rotation.to(layer.weight.device)
        layer.weight.copy_(rotation @ layer.weight)  # type: ignore[operator]
        layer.bias.copy_(rotation @ layer.bias)  # type: ignore[operator]
    for name in axis.readers:
        layer = tower.get_submodule(name)
        layer.weight.copy_(layer.weight @ rotation.T)  # type: ignore[operator]
