"""Other forms of a CLIP: the same function, written with scales as uneven as long training leaves them.

A quantizer that depends on the form of a checkpoint loses on them what it keeps on the CLIP that they are made from.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from d4c.models.anatomy import ChannelAxis
from d4c.models.clip import CLIP
from d4c.models.config import TOWERS
from d4c.models.tower import Tower
from d4c.quantization.symmetries.mix import mix_heads
from d4c.quantization.symmetries.rescale import rescale


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
            channels = axis_channels(tower, axis)
            normal = torch.randn(channels, generator=generator, dtype=torch.float64)
            rescale(tower, axis, (sigma * normal).exp().to(clip.device))
            if axis.heads:
                mix_heads(tower, axis, _rotations(axis.heads, channels // axis.heads, generator).to(clip.device))
    return changed.to(next(clip.parameters()).dtype)


def axis_channels(tower: Tower, axis: ChannelAxis) -> int:
    """The number of channels of an axis."""
    weight: Tensor = tower.get_submodule(axis.writers[0]).weight  # type: ignore[assignment]
    return len(weight)


def _rotations(heads: int, size: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(heads, size, size, generator=generator, dtype=torch.float64)).Q
