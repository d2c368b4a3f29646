"""What each token of an image counts: weights of the reconstruction loss from the gradient of an error at the end."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from d4c.calibration.prompts import NOUNS, generic_prompts
from d4c.models.clip import CLIP
from d4c.quantization.quantized_layers import QuantizedLinear
from d4c.quantization.stages import stages
from d4c.zeroshot.divergence import divergence, log_distribution

Error = Callable[[Tensor, Tensor], Tensor]
"""Maps a quantized and a float model's embeddings [N, D] to the error of each image [N]."""
SAMPLES = 64
TEXT_BATCH = 64
BATCH = 4  # a whole tower's activations are held at once


def embedding_error(own: Tensor, wanted: Tensor) -> Tensor:
    """1 - cos between the embeddings."""
    return 1 - F.cosine_similarity(own, wanted, dim=-1)


@torch.no_grad()
def zeroshot_error(reference: CLIP) -> Error:
    """KL of the zero-shot distributions over 180 generic prompts, each of another noun, with float text embeddings.

    Unlike the cosine it does not count where an embedding moves without nearing a prompt.
    """
    tokens = reference.tokenize(generic_prompts(len(NOUNS))).to(reference.device)
    texts = torch.cat([reference.encode_text(part) for part in reference.text.batches(tokens, TEXT_BATCH)])

    def error(own: Tensor, wanted: Tensor) -> Tensor:
        found, expected = (log_distribution(images, texts, reference.logit_scale) for images in (own, wanted))
        return divergence(found, expected)

    return error


@torch.enable_grad()
def token_importance(quantized: CLIP, reference: CLIP, pixels: Tensor, error: Error) -> dict[str, Tensor]:
    """Weights [L, C] of mean 1, one a token, for the output of each stage and each layer of a vision transformer.

    They are means over images and channels of the squared gradient of `error`: the diagonal of the Fisher information,
    which says to second order what an error costs (BRECQ, arXiv 2102.05426). The class token, which alone is read in
    the end, counts by far the most. `quantized` has its ranges and weights rounded to nearest; the first 64 of `pixels`
    [N, 3, S, S] are taken. Outputs without tokens have no weights.

    Weights of channels, the other way to reduce the diagonal, brought nothing: tried at W4A4 on the image and the text
    tower of a transformer and, where it was worse, on the image tower of a ResNet (one seed each).
    """
    sums: dict[str, Tensor] = {}

    def watch(name: str, y: Tensor) -> Tensor:
        def add(gradient: Tensor) -> None:
            squares = gradient.square().sum((0, 2))[:, None].expand(gradient.shape[1:])
            sums[name] = sums[name] + squares if name in sums else squares

        if y.ndim == 3:
            if not y.requires_grad:
                y.requires_grad_()  # nothing in front of the first layer has a gradient
            y.register_hook(add)
        return y

    handles = [
        module.register_forward_hook(lambda _, __, y, name=name: watch(name, y))
        for name, module in quantized.named_modules()
        if name.startswith("image.") and isinstance(module, QuantizedLinear)
    ]
    try:
        for part in pixels[:SAMPLES].split(BATCH):
            own, wanted = part, part
            for stage in stages(quantized, "image"):
                own = watch(stage.name, stage.run(quantized, own, part))
                with torch.no_grad():
                    wanted = stage.run(reference, wanted, part)
            error(own, wanted).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    return {name: _of_mean_one(total) for name, total in sums.items()}


def _of_mean_one(total: Tensor) -> Tensor:
    """Divided by the mean; all ones where nothing reaches the embedding."""
    mean = total.mean()
    return total / mean if bool(mean > 0) and bool(mean.isfinite()) else torch.ones_like(total)
