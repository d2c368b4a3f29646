"""Rounding in closed form: GPTQ (arXiv 2210.17323).

The integer weight Q of a layer should give the outputs of its float weight W: minimise tr((Q - W) H (Q - W)^T) with
H = X X^T + lambda I over the inputs X that the quantized model sees. Columns are rounded one after the other, and what
each rounding gets wrong is spread over the columns to come.

The correction that also makes up for the error of the inputs (GPTAQ, arXiv 2504.02692) is left out: tried with 64
D4C images on both demo models (one seed, on the pack that the tables use), it was further from the float embeddings
than plain GPTQ.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from d4c.quantization.affine import dequantize, quantize
from d4c.quantization.layers import QuantizedConv2d, QuantizedLinear

Layer = QuantizedLinear | QuantizedConv2d

DAMPING = 0.03  # lambda as a share of the mean of the diagonal of X X^T
BLOCK = 128  # columns whose errors are spread together
_SAMPLES = 1 << 22  # elements of the unfolded input of a convolution held at once


@torch.no_grad()
def solve(layers: Sequence[Layer], given: Tensor) -> None:
    """Set integer weights, biases, and the float weights that learned rounding starts from, for one shared input.

    `given` are inputs of the quantized model before the layers' quantizer: [..., K] for linear layers, [N, C, H, W]
    for convolutions. A bias takes up the mean error exactly.
    """
    first = layers[0]
    gram, mean = _moments(first, first.input_quantizer(given))
    if first.bias is None:
        gram = gram + torch.outer(mean, mean)
    damping = (DAMPING * gram.diagonal().mean()).clamp(min=1e-10)  # inputs may be all zero
    hessian = gram + damping * torch.eye(len(gram), device=gram.device)
    for layer in layers:
        source = layer.source_weight().flatten(1)
        args = layer.weight_args
        scale, zero_point = layer.weight_scale.flatten(), layer.weight_zero_point.flatten()
        codes, adjusted = gptq(source, hessian, scale, zero_point, args.qmin, args.qmax)
        layer.set_codes(codes.view(layer.weight_shape))
        layer.float_weight = adjusted.view(layer.weight_shape)
        if layer.bias is not None:
            layer.bias += (source - layer.weight.flatten(1)) @ mean


def gptq(
    weight: Tensor, hessian: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int
) -> tuple[Tensor, Tensor]:
    """Codes [O, K] for a weight [O, K]: columns in order of falling curvature, each error spread over those to come.

    `hessian` is [K, K], positive definite; `scale` and `zero_point` are [O]. Also returns the weight [O, K] with the
    errors that were spread onto it, of which the codes are the nearest: where learned rounding can start.
    """
    order = hessian.diagonal().argsort(descending=True)
    weight = weight[:, order].clone()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian[order][:, order]))
    factor = torch.linalg.cholesky(inverse, upper=True)
    codes = torch.empty_like(weight)
    for start in range(0, weight.shape[1], BLOCK):
        end = min(start + BLOCK, weight.shape[1])
        errors = torch.empty_like(weight[:, start:end])
        for k in range(start, end):
            codes[:, k] = quantize(weight[:, k], scale, zero_point, qmin, qmax)
            error = (weight[:, k] - dequantize(codes[:, k], scale, zero_point)) / factor[k, k]
            weight[:, k + 1 : end] -= torch.outer(error, factor[k, k + 1 : end])
            errors[:, k - start] = error
        weight[:, end:] -= errors @ factor[start:end, end:]
    back = order.argsort()
    return codes[:, back], weight[:, back]


def _moments(layer: Layer, given: Tensor) -> tuple[Tensor, Tensor]:
    """Covariance and mean of x over all positions: [K, K] and [K].

    Sums are those of x minus the mean of its first part: inputs that vary little about a large mean, as codes of few
    bits do, would leave nothing but rounding errors of a difference of squares.
    """
    size = layer.weight[0].numel()
    gram = torch.zeros(size, size, device=given.device)
    total = torch.zeros_like(gram[0])
    count = 0
    step = max(1, _SAMPLES // max(1, size * given[0].numel() // given.shape[1])) if given.ndim == 4 else len(given)
    shift = _columns(layer, given[:step]).mean(0)
    for part in given.split(step):
        x = _columns(layer, part) - shift
        gram += x.T @ x
        total += x.sum(0)
        count += len(x)
    offset = total / count
    return gram / count - torch.outer(offset, offset), shift + offset


def _columns(layer: Layer, x: Tensor) -> Tensor:
    """Inputs as rows [positions, K], in the order of the flattened weight."""
    if isinstance(layer, QuantizedLinear):
        return x.reshape(-1, x.shape[-1])
    kernel = layer.weight_shape[2:]
    unfolded = F.unfold(x, kernel, padding=layer.padding, stride=layer.stride)
    return unfolded.transpose(1, 2).reshape(-1, unfolded.shape[1])
