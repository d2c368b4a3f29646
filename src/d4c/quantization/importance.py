"""What each part of a layer's output counts: weights of the reconstruction loss from the gradient of the embedding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from d4c.models.clip import CLIP
from d4c.quantization.layers import QuantizedConv2d, QuantizedLinear
from d4c.quantization.stages import stages

SAMPLES = 64
BATCH = 4  # a whole tower's activations are held at once


@torch.enable_grad()
def gradient_importance(quantized: CLIP, reference: CLIP, tower: str, inputs: Tensor) -> dict[str, Tensor]:
    """Weights of mean 1 for the output of each stage and each layer of a tower, by name, which a batch broadcasts with.

    They are means over samples of the squared gradient of 1 - cos between a quantized and a float embedding: the
    diagonal of the Fisher information, which says to second order what an error costs (BRECQ, arXiv 2102.05426). The
    tokens of an image have one weight each, [L, C]: the class token, which alone is read, counts by far the most.
    Elsewhere channels have, [C] or [C, 1, 1]: positions of one prompt are not those of another.

    `quantized` has its ranges and weights rounded to nearest; `inputs` are pixels or cropped tokens, of which the first
    64 are taken.
    """
    sums: dict[str, Tensor] = {}

    def watch(name: str, y: Tensor) -> Tensor:
        def add(gradient: Tensor) -> None:
            squares = _reduced(gradient.square(), by_token=tower == "image")
            sums[name] = sums[name] + squares if name in sums else squares

        if not y.requires_grad:
            y.requires_grad_()  # nothing in front of the first layer has a gradient
        y.register_hook(add)
        return y

    handles = [
        module.register_forward_hook(lambda _, __, y, name=name: watch(name, y))
        for name, module in quantized.named_modules()
        if name.startswith(f"{tower}.") and isinstance(module, QuantizedLinear | QuantizedConv2d)
    ]
    try:
        for part in inputs[:SAMPLES].split(BATCH):
            own, wanted = part, part
            for stage in stages(quantized, tower):
                own = watch(stage.name, stage.run(quantized, own, part))
                with torch.no_grad():
                    wanted = stage.run(reference, wanted, part)
            (1 - F.cosine_similarity(own, wanted, dim=-1)).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    return {name: _of_mean_one(total) for name, total in sums.items()}


def _reduced(squares: Tensor, by_token: bool) -> Tensor:
    """Sums over samples, and over the channels of each token or the positions of each channel."""
    if squares.ndim == 4:
        return squares.sum((0, 2, 3))[:, None, None]
    if squares.ndim == 3 and by_token:
        return squares.sum((0, 2))[:, None].expand(squares.shape[1:])
    return squares.flatten(0, -2).sum(0)


def _of_mean_one(total: Tensor) -> Tensor:
    """Divided by the mean; all ones where nothing reaches the embedding."""
    mean = total.mean()
    return total / mean if bool(mean > 0) and bool(mean.isfinite()) else torch.ones_like(total)
