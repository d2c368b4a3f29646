"""Exact rewrites of a float tower that make it easier to quantize: equal outputs before and after."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from d4c.models.tower import ChannelAxis, Tower, replace_module
from d4c.quantization.ranges.search import safe_scale

# A channel whose range is far from the others' would multiply its weight column by as much.
MAX_RATIO = 16.0


def fold_batchnorm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution with bias that equals `norm(conv(x))` in eval mode."""
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

    `low` and `high` [C] are the ranges of the channels. With r their widths over the mean width, to the power of
    `strength` (SmoothQuant, arXiv 2211.10438), and d what moves the middle of each range onto the mean one,
    x' = (x + d) / r, and the linears that read it take W' = W diag(r), b' = b - W d. At strength 1 this is what a
    quantizer per channel would do, without one; below it the columns of the weights differ less. At strength 0 the
    channels only share a middle, and no weight changes. r is limited to 1/16 .. 16.
    """
    ratio = relative(high - low).pow(strength)
    center = (high + low) / 2
    shift = center.mean() * ratio - center
    with torch.no_grad():
        for linear in readers:
            if linear.bias is None:
                raise ValueError("a linear layer behind a folded LayerNorm needs a bias")
            linear.bias.sub_(linear.weight @ shift)
            linear.weight.mul_(ratio)
        norm.weight.div_(ratio)
        norm.bias.add_(shift).div_(ratio)


def relative(width: Tensor) -> Tensor:
    """Widths over their mean, within 1/16 .. 16."""
    return (width / safe_scale(width.mean())).clamp(1 / MAX_RATIO, MAX_RATIO)


def norm_axes(tower: Tower) -> list[ChannelAxis]:
    """The axes that a LayerNorm writes."""
    norms = {name for name, module in tower.named_modules() if isinstance(module, nn.LayerNorm)}
    return [axis for axis in tower.channel_axes() if norms.issuperset(axis.writers)]
