"""Choosing every range: one pass of float data through quantizers that only watch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from d4c.models.clip import CLIP, TOWERS
from d4c.quantization.config import RangeRule
from d4c.quantization.placement import Plan
from d4c.quantization.quantized_layers import ActivationQuantizer, QuantizedLayer
from d4c.quantization.ranges.observer import Observer
from d4c.quantization.symmetries.fold_search import find_sites
from d4c.quantization.symmetries.folding import fold_batchnorms, norm_axes

FOLD_IMAGES, FOLD_PROMPTS = 32, 128


@torch.no_grad()
def run_towers(clip: CLIP, pixels: Tensor, tokens: Tensor, towers: Sequence[str], batch: int = 64) -> None:
    """Send calibration data through the towers for what hooks and observers see."""
    for tower, inputs in (("image", pixels), ("text", tokens)):
        if tower in towers:
            for part in clip.tower(tower).batches(inputs, batch):
                clip.tower(tower)(part)


def prepare(clip: CLIP, pixels: Tensor, tokens: Tensor, towers: Sequence[str], plan: Plan) -> None:
    """Fold a float CLIP in place for the deployable track: BatchNorm, and what narrows ranges at the bits of `plan`.

    Folds are chosen on at most 32 images and 128 prompts, evenly spread: they are guided by ranges and set none. What
    is the same for all inputs of a tower, such as begin-of-text, becomes a constant after them.
    """
    for tower in towers:
        fold_batchnorms(clip.tower(tower))
    sites = list(find_sites(clip, towers, plan))
    few_pixels, few_tokens = (x[:: -(-len(x) // n) or 1] for x, n in ((pixels, FOLD_IMAGES), (tokens, FOLD_PROMPTS)))
    run_towers(clip, few_pixels, few_tokens, towers)
    for site in sites:
        site.choose()
    for tower, inputs in (("image", pixels), ("text", tokens)):
        if tower in towers:
            clip.tower(tower).fold_constants(inputs)


def calibrate(
    clip: CLIP,
    pixels: Tensor,
    tokens: Tensor,
    towers: Sequence[str],
    known_pixels: bool,
    rule: RangeRule = "mse",
) -> None:
    """Set the range of every quantizer of a converted CLIP, and round its weights to nearest.

    Activations are observed in float and take their ranges by `rule`, weights by search. With `known_pixels` the range
    of the first layer is that of all pictures, black to white after normalization, whatever calibration images hold.
    """
    quantizers = {
        name: module
        for name, module in clip.named_modules()
        if isinstance(module, ActivationQuantizer) and name.split(".")[0] in towers
    }
    for name, quantizer in quantizers.items():
        quantizer.observer = Observer(quantizer.args, name, rule)
    try:
        run_towers(clip, pixels, tokens, towers)
        twins, ranges = _twins(clip), {}
        for quantizer in quantizers.values():
            twin = twins.get(quantizer, quantizer)
            if twin not in ranges:
                assert twin.observer is not None
                ranges[twin] = twin.observer.finish()
            quantizer.set_range(*ranges[twin])
    finally:
        for quantizer in quantizers.values():
            quantizer.observer = None
    first = clip.image.get_submodule(clip.image.first_layer)
    if known_pixels and isinstance(first, QuantizedLayer):
        set_pixel_range(clip, first.input_quantizer)  # type: ignore[arg-type]
    for name, module in clip.named_modules():
        if isinstance(module, QuantizedLayer) and name.split(".")[0] in towers:
            module.calibrate_weight()


def _twins(clip: CLIP) -> dict[ActivationQuantizer, ActivationQuantizer]:
    """For a quantizer that reads the same tensor in the same format as another one: that other one."""
    twins = {}
    for name in TOWERS:
        tower = clip.tower(name)
        for axis in norm_axes(tower):
            inputs = [getattr(tower.get_submodule(reader), "input_quantizer", None) for reader in axis.readers]
            quantizers = [quantizer for quantizer in inputs if isinstance(quantizer, ActivationQuantizer)]
            twins.update({other: quantizers[0] for other in quantizers if other.args == quantizers[0].args})
    return twins


def set_pixel_range(clip: CLIP, quantizer: ActivationQuantizer) -> None:
    """Range of normalized pixels of any picture: (0 - mean) / std to (1 - mean) / std over the three channels."""
    mean, std = clip.config.mean, clip.config.std
    low = min(-m / s for m, s in zip(mean, std, strict=True))
    high = max((1 - m) / s for m, s in zip(mean, std, strict=True))
    scale = torch.tensor((high - low) / quantizer.args.qmax)
    quantizer.set_range(scale, (-low / scale).round())
