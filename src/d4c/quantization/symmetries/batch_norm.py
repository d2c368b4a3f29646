"""Folds each BatchNorm into its convolution."""

from __future__ import annotations

import copy

import torch
from torch import nn

from d4c.models.tower import Tower, replace_module


def fold_batchnorm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """A new convolution with bias that equals `norm(conv(x))` in eval mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    bias = norm.bias - norm.running_mean * gain
    if conv.bias is not None:
        bias = bias + conv.bias * gain
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
