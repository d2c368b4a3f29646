"""Rounding in closed form: GPTQ (arXiv 2210.17323) with the correction for quantized inputs (GPTAQ, arXiv 2504.02692).

With X the inputs of a layer as the quantized model sees them and X' those of the float model, the integer weight Q
should minimise |Q X - W X'|^2 + lambda |Q - W|^2. With H = X X^T + lambda I and W* = (W X' X^T + lambda W) H^-1 that is
tr((Q - W*) H (Q - W*)^T) plus a constant: a ridge solution, then plain GPTQ on W* with H. A bias absorbs the mean
error.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from d4c.quantization.affine import dequantize, quantize
from d4c.quantization.layers import QuantizedConv2d, QuantizedLinear

Layer = QuantizedLinear | QuantizedConv2d

# lambda as a share of the mean of the diagonal of X X^T. Synthetic inputs are not those to come: with a tenth of this
# the towers follow them too closely, and with dead leaves W4A4 loses more than it gains.
DAMPING = 1.0
BLOCK = 128  # columns whose errors are spread together
_SAMPLES = 1 << 22  # elements of the unfolded input of a convolution held at once


@torch.no_grad()
def solve(layers: Sequence[Layer], given: Tensor, wanted: Tensor) -> None:
    """Set integer weights, biases, and the float weights that learned rounding starts from, for one shared input.

    `given` are inputs of the quantized model before the layers' quantizer, `wanted` those of the float model, alike in
    shape: [..., K] for linear layers, [N, C, H, W] for convolutions.
    """
    first = layers[0]
    gram, cross, mean, mean_wanted = _moments(first, first.input_quantizer(given), wanted)
    if first.bias is not None:
        # Centring takes the mean out of the products; the bias restores it exactly.
        gram = gram - torch.outer(mean, mean)
        cross = cross - torch.outer(mean_wanted, mean)
    damping = DAMPING * gram.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
    hessian = gram + damping * torch.eye(len(gram), device=gram.device)
    for layer in layers:
        source = layer.source_weight().flatten(1)
        target = torch.linalg.solve(hessian, (source @ cross + damping * source).T).T
        scale, zero_point = layer.weight_range(target)
        args = layer.weight_args
        codes, adjusted = gptq(target, hessian, scale, zero_point, args.qmin, args.qmax)
        layer.weight_scale.copy_(scale.view_as(layer.weight_scale))
        layer.weight_zero_point.copy_(zero_point.view_as(layer.weight_zero_point))
        layer.set_codes(codes.view(layer.weight_shape))
        layer.float_weight = adjusted.view(layer.weight_shape)
        if layer.bias is not None:
            rounded = layer.weight.flatten(1)
            layer.bias += source @ mean_wanted - rounded @ mean


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


def _moments(layer: Layer, given: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means of x x^T, x' x^T, x and x' over all positions: [K, K] twice, [K] twice."""
    size = layer.weight[0].numel()
    gram = torch.zeros(size, size, device=given.device)
    cross = torch.zeros_like(gram)
    mean, mean_wanted = torch.zeros_like(gram[0]), torch.zeros_like(gram[0])
    count = 0
    step = max(1, _SAMPLES // max(1, size * given[0].numel() // given.shape[1])) if given.ndim == 4 else len(given)
    for x, y in zip(given.split(step), wanted.split(step), strict=True):
        x, y = _columns(layer, x), _columns(layer, y)
        gram += x.T @ x
        cross += y.T @ x
        mean += x.sum(0)
        mean_wanted += y.sum(0)
        count += len(x)
    return gram / count, cross / count, mean / count, mean_wanted / count


def _columns(layer: Layer, x: Tensor) -> Tensor:
    """Inputs as rows [positions, K], in the order of the flattened weight."""
    if isinstance(layer, QuantizedLinear):
        return x.reshape(-1, x.shape[-1])
    kernel = layer.weight_shape[2:]
    unfolded = F.unfold(x, kernel, padding=layer.padding, stride=layer.stride)
    return unfolded.transpose(1, 2).reshape(-1, unfolded.shape[1])
