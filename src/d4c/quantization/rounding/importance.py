"""Importance of image tokens: weights for the reconstruction loss, from the gradient of an error of the embedding."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from d4c.calibration.prompts import NOUNS, generic_prompts
from d4c.models.clip import CLIP
from d4c.quantization.layers.quantized_product import QuantizedLinear
from d4c.quantization.stages import stages
from d4c.zeroshot.divergence import divergence, log_distribution

Error = Callable[[Tensor, Tensor], Tensor]
"""Maps embeddings [N, D] of a quantized model and of the float model to the error of each image [N]."""
SAMPLES = 64
"""Images that the gradient is a mean over."""
BATCH = 4
"""Images at a time; the activations of a whole tower are held for the gradient."""
TEXT_BATCH = 64


def embedding_error(actual: Tensor, expected: Tensor) -> Tensor:
    """1 - cos between the embeddings of each image."""
    return 1 - F.cosine_similarity(actual, expected, dim=-1)


@torch.no_grad()
def zeroshot_error(reference: CLIP) -> Error:
    """The divergence of the zero-shot distributions over 180 generic prompts, each of another noun.

    Text embeddings are those of the float model. Unlike the cosine, the divergence ignores moves of an embedding that
    bring it no nearer to any prompt.

    Args:
        reference: The float CLIP.
    """
    tokens = reference.tokenize(generic_prompts(len(NOUNS))).to(reference.device)
    texts = torch.cat([reference.encode_text(part) for part in reference.text.batches(tokens, TEXT_BATCH)])

    def error(actual: Tensor, expected: Tensor) -> Tensor:
        log_p = [log_distribution(images, texts, reference.logit_scale) for images in (actual, expected)]
        return divergence(*log_p)

    return error


@torch.enable_grad()
def token_importance(quantized: CLIP, reference: CLIP, pixels: Tensor, error: Error) -> dict[str, Tensor]:
    """Weigh the tokens in the output of each stage and each layer of a vision transformer.

    A weight is the mean over images and channels of the squared gradient of `error`: the diagonal of the Fisher
    information, which tells to second order what an error costs (BRECQ, arXiv 2102.05426). The class token, which
    alone is read in the end, counts by far the most.

    Args:
        quantized: The CLIP with all ranges chosen and weights rounded to nearest.
        reference: The float CLIP that it was made from.
        pixels: Pixels [N, 3, S, S], of which the first 64 are used.
        error: What the weights tell the cost in.

    Returns:
        By name of the stage or layer, weights [L, C] of mean 1, equal for all channels of a token. Outputs without
        tokens have none.
    """
    sums: dict[str, Tensor] = {}

    def watch(name: str, y: Tensor) -> Tensor:
        def add(gradient: Tensor) -> None:
            squares = gradient.square().sum((0, 2))[:, None].expand(gradient.shape[1:])
            sums[name] = sums[name] + squares if name in sums else squares

        if y.ndim == 3:
            if not y.requires_grad:
                y.requires_grad_()  # nothing before the first layer has a gradient
            y.register_hook(add)
        return y

    handles = [
        module.register_forward_hook(lambda _, __, y, name=name: watch(name, y))
        for name, module in quantized.named_modules()
        if name.startswith("image.") and isinstance(module, QuantizedLinear)
    ]
    try:
        for part in pixels[:SAMPLES].split(BATCH):
            actual, expected = part, part
            for stage in stages(quantized, "image"):
                actual = watch(stage.name, stage.run(quantized, actual, part))
                with torch.no_grad():
                    expected = stage.run(reference, expected, part)
            error(actual, expected).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    return {name: _with_mean_one(squares) for name, squares in sums.items()}


def _with_mean_one(weights: Tensor) -> Tensor:
    """The weights over their mean; all ones where nothing reaches the embedding."""
    mean = weights.mean()
    return weights / mean if bool(mean > 0) and bool(mean.isfinite()) else torch.ones_like(weights)
