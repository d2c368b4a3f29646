"""Exact rewrites of a float tower that make it easier to quantize: BatchNorm and channel ranges are folded away."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from d4c.models.tower import ChannelAxis, Tower, replace_module
from d4c.quantization.ranges.search import safe_scale

MAX_RATIO = 16.0
"""A channel is rescaled by at most this: its column of weights is multiplied by as much and has to be quantized too."""


def fold_batchnorm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """A new convolution with bias that equals `norm(conv(x))` in eval mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    bias = norm.bias - norm.running_mean * gain
    folded = copy.copy(conv)
    folded._parameters = {}
    folded.weight = nn.Parameter(conv.weight.detach() * gain.detach()[:, None, None, None], requires_grad=False)
    folded.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return folded


def fold_batchnorms(tower: Tower) -> None:
    """Fold every BatchNorm of the tower into its convolution, in place."""
    for conv, norm in tower.batch_norms():
        folded = fold_batchnorm(tower.get_submodule(conv), tower.get_submodule(norm))  # type: ignore[arg-type]
        replace_module(tower, conv, folded)
        replace_module(tower, norm, nn.Identity())


def fold_channel_ranges(
    norm: nn.LayerNorm, readers: Sequence[nn.Linear], low: Tensor, high: Tensor, strength: float = 1.0
) -> None:
    """Give the channels of a LayerNorm's output one range, in place (RepQ-ViT, arXiv 2212.08254).

    The output becomes x' = (x + d) / r, and the linear layers that read it take W' = W diag(r), b' = b - W d. The
    ratios r are the channels' widths over their mean, to the power of `strength` (SmoothQuant, arXiv 2211.10438),
    within 1/16 .. 16. The shifts d move the middle of each range onto the mean of the middles.

    Args:
        norm: The LayerNorm over C channels.
        readers: All layers that read its output.
        low: Smallest output of each channel [C].
        high: Largest output of each channel [C].
        strength: At 1 the fold does what one scale per channel would do. Below it the columns of the weights differ
            less. At 0 the channels share only their middle, and no weight changes.

    Raises:
        ValueError: A reader has no bias.
    """
    ratio = relative(high - low).pow(strength)
    center = (high + low) / 2
    shift = center.mean() * ratio - center
    with torch.no_grad():
        for linear in readers:
            if linear.bias is None:
                raise ValueError("A linear layer that reads a folded LayerNorm has no bias; give it a bias of zeros.")
            linear.bias.sub_(linear.weight @ shift)
            linear.weight.mul_(ratio)
        norm.weight.div_(ratio)
        norm.bias.add_(shift).div_(ratio)


def relative(width: Tensor) -> Tensor:
    """Widths over their mean, clamped to 1 / MAX_RATIO .. MAX_RATIO."""
    return (width / safe_scale(width.mean())).clamp(1 / MAX_RATIO, MAX_RATIO)


def norm_axes(tower: Tower) -> list[ChannelAxis]:
    """The channel axes that a LayerNorm writes."""
    norms = {name for name, module in tower.named_modules() if isinstance(module, nn.LayerNorm)}
    return [axis for axis in tower.channel_axes() if norms.issuperset(axis.writers)]
