"""Rounding in closed form: GPTQ (arXiv 2210.17323).

The integer weight Q of a layer should give the outputs of its float weight W. So tr((Q - W) H (Q - W)^T) is minimized,
with H = X X^T + lambda I over the inputs X of the quantized model. Columns are rounded one after the other, and the
error of each is spread over the columns that follow.

Two common additions are left out: biases that take up the mean error of the outputs, which fit only the calibration
images, and the correction for the error of the inputs (GPTAQ, arXiv 2504.02692).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from d4c.compiled import Repeated
from d4c.progress import Progress, silent
from d4c.quantization.layers.quantized_product import QuantizedConv2d, QuantizedLinear

Layer = QuantizedLinear | QuantizedConv2d

DAMPING = 0.03
"""Lambda as a share of the mean of the diagonal of X X^T; benchmarks/choices measures others."""
BLOCK = 128
"""Columns whose errors are spread together over all that follow."""
_SAMPLES = 1 << 22  # elements of the unfolded input of a convolution that are held at a time
_ELEMENTS = 1 << 26  # elements of the input of a linear layer that are held at a time


class GPTQ:
    """Rounds layer after layer; the steps that a GPU captures for one shape serve all blocks of that shape."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[int, int, torch.device], _Block] = {}

    @torch.no_grad()
    def solve(self, layers: Sequence[Layer], inputs: Tensor, progress: Progress = silent) -> None:
        """Set the integer weights of layers, in place, and the float weights that learned rounding starts from.

        Args:
            layers: Layers that read one tensor.
            inputs: That tensor in the quantized model, before the layers' quantizer and on any device: [..., K] for
                linear layers, [N, C, H, W] for convolutions.
            progress: Called with the layers done and their number.
        """
        gram = _gram(layers[0], inputs)
        order, factor = factorize(damped(gram, DAMPING))
        for done, layer in enumerate(layers, 1):
            source = layer.source_weight().flatten(1)
            scale, zero_point = layer.weight_scale.flatten(), layer.weight_zero_point.flatten()
            low, high = _limits(layer)
            codes, adjusted = self.round(source, order, factor, scale, zero_point, low, high)
            layer.set_codes(codes.view(layer.weight_shape))
            layer.float_weight = adjusted.view(layer.weight_shape)
            progress(done, len(layers))

    def round(
        self,
        weight: Tensor,
        order: Tensor,
        factor: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        low: Tensor,
        high: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Round a weight, column after column in `order`, and spread the error of each over those that follow.

        Args:
            weight: Float weight [O, K].
            order: Order of the columns [K], from `factorize`.
            factor: Factor of the inverse Hessian [K, K], from `factorize`.
            scale: Scale per row [O].
            zero_point: Zero point per row [O].
            low: Smallest codes, which broadcast to [O, K].
            high: Largest codes, likewise.

        Returns:
            Codes [O, K], and the weight [O, K] with the errors that were spread onto it. The codes are the nearest to
            this weight, so learned rounding can start from it.
        """
        weight = weight[:, order]
        codes = torch.empty_like(weight)
        low, high = ((end.expand_as(weight) - zero_point[:, None])[:, order] for end in (low, high))
        for start in range(0, weight.shape[1], BLOCK):
            end = min(start + BLOCK, weight.shape[1])
            block = self._block(end - start, weight)
            columns = slice(start, end)
            block(weight[:, columns].T, factor[columns, columns], scale, low[:, columns].T, high[:, columns].T)
            codes[:, start:end] = block.codes.T + zero_point[:, None]
            weight[:, start:end] = block.weight.T
            weight[:, end:].sub_(block.errors.T @ factor[start:end, end:])
        original_order = order.argsort()
        return codes[:, original_order], weight[:, original_order]

    def _block(self, columns: int, weight: Tensor) -> _Block:
        key = columns, len(weight), weight.device
        if key not in self._blocks:
            self._blocks[key] = _Block(*key)
        return self._blocks[key]


def damped(hessian: Tensor, share: float) -> Tensor:
    """Add a share of the mean of the diagonal to all of it, so that the matrix is positive definite."""
    damping = (share * hessian.diagonal().mean()).clamp(min=1e-10)  # where all inputs are zero
    return hessian + damping * torch.eye(len(hessian)).to(hessian)


def factorize(hessian: Tensor) -> tuple[Tensor, Tensor]:
    """Order the columns by falling curvature and factorize the inverse Hessian in that order.

    Args:
        hessian: Positive definite matrix [K, K].

    Returns:
        The order of the columns [K], and the upper Cholesky factor of the inverse [K, K]. Row k of the factor, divided
        by its diagonal, tells how the columns after k make up for an error of column k.
    """
    order = hessian.diagonal().argsort(descending=True)
    return order, inverse_factor(hessian[order][:, order])


def inverse_factor(hessian: Tensor) -> Tensor:
    """Return the upper Cholesky factor of the inverse of a positive definite matrix [K, K]."""
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)


class _Block:
    """Rounds a block of columns one after the other, in tensors of its own, so that a GPU can replay the steps.

    Tensors are transposed, so that a column of the weight is contiguous. Codes are without zero point.
    """

    def __init__(self, columns: int, rows: int, device: torch.device) -> None:
        self.weight = torch.empty(columns, rows, device=device)
        self.codes, self.errors = torch.empty_like(self.weight), torch.empty_like(self.weight)
        self.factor = torch.empty(columns, columns, device=device)
        self.low, self.high = torch.empty_like(self.weight), torch.empty_like(self.weight)
        self.scale = torch.empty(rows, device=device)
        self._repeat = Repeated(device)

    def __call__(self, weight: Tensor, factor: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> None:
        self.weight.copy_(weight)
        self.factor.copy_(factor)
        self.scale.copy_(scale)
        self.low.copy_(low)
        self.high.copy_(high)
        self._repeat(self._round)

    def _round(self) -> None:
        for k, (column, code, error) in enumerate(zip(self.weight, self.codes, self.errors, strict=True)):
            torch.div(column, self.scale, out=code).round_().clamp_(self.low[k], self.high[k])
            torch.mul(code, self.scale, out=error)
            torch.sub(column, error, out=error).div_(self.factor[k, k])
            self.weight[k + 1 :].sub_(torch.outer(self.factor[k, k + 1 :], error))


def _limits(layer: Layer) -> tuple[Tensor, Tensor]:
    """Smallest and largest codes, which broadcast to the flattened weight."""
    if (limits := layer.code_limits()) is not None:
        return limits[0].flatten(1), limits[1].flatten(1)
    low, high = torch.tensor([layer.weight_args.qmin, layer.weight_args.qmax], device=layer.weight.device)
    return low, high


def _gram(layer: Layer, inputs: Tensor) -> Tensor:
    """X X^T [K, K] of the quantized inputs, the mean over all positions."""
    device = layer.weight.device
    size = layer.weight[0].numel()
    gram = torch.zeros(size, size, device=device)
    count = 0
    if inputs.ndim == 4:
        samples = _SAMPLES // max(1, size * inputs[0].numel() // inputs.shape[1])
    else:
        samples = _ELEMENTS // inputs[0].numel()
    for batch in inputs.split(max(1, samples)):
        x = _columns(layer, layer.input_quantizer(batch.to(device)))
        gram += x.T @ x
        count += len(x)
    return gram / count


def _columns(layer: Layer, x: Tensor) -> Tensor:
    """Inputs as rows [positions, K], whose columns are those of the flattened weight."""
    if isinstance(layer, QuantizedLinear):
        return x.reshape(-1, x.shape[-1])
    kernel = layer.weight_shape[2:]
    unfolded = F.unfold(x, kernel, padding=layer.padding, stride=layer.stride)
    return unfolded.transpose(1, 2).reshape(-1, unfolded.shape[1])
