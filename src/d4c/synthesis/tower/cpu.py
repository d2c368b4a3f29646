"""Makes an image tower without weight gradients fast on a CPU."""

from __future__ import annotations

import platform
from functools import cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from d4c.models.tower import Tower, replace_module


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `F.linear` without gradients of weight and bias.

    PyTorch for x86 has two libraries for it. It gives products in float32 to MKL, which does not use the widest
    instructions of every vendor's processors; oneDNN does. Products in bf16 go to oneDNN anyway, but PyTorch adds the
    bias in a separate pass.

    Args:
        x: Input [..., K].
        weight: Weight [O, K].
        bias: Bias [O].

    Returns:
        Output [..., O].
    """
    x = x.contiguous()  # PyTorch turns a slice of tokens into a batch of products with as many copies of the weight
    if x.device.type == "cpu" and onednn_has(x.dtype):
        result: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return result
    return F.linear(x, weight, bias)


@cache
def onednn_has(dtype: torch.dtype) -> bool:
    """Whether this is an x86 processor for which PyTorch has products by oneDNN in a type."""
    known = torch.backends.mkldnn.is_available() and platform.machine().lower() in ("x86_64", "amd64")
    if not (known and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _onednn(gradient.contiguous(), weight.t(), None), None, None


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


class Product(nn.Module):
    """A linear layer that computes with `product`."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias)


def use_products(tower: nn.Module) -> None:
    """Replace every linear layer by a `Product`."""
    for parent in list(tower.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, Product(child))


def fold_batchnorms(tower: Tower) -> None:
    """Make every BatchNorm part of the convolution that it follows."""
    for conv, norm in tower.batch_norms():
        fused = fuse_conv_bn_eval(
            cast(nn.Conv2d, tower.get_submodule(conv)), cast(nn.BatchNorm2d, tower.get_submodule(norm))
        )
        replace_module(tower, conv, fused)
        replace_module(tower, norm, nn.Identity())
