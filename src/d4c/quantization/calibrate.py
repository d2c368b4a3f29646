"""Calibration: folds and ranges are chosen from what passes through the towers in float."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from d4c.models.clip import CLIP, TOWERS
from d4c.progress import Progress, parts, silent
from d4c.quantization.config import QuantizeConfig, RangeRule
from d4c.quantization.placement import Plan
from d4c.quantization.quantized_layers import ActivationQuantizer, QuantizedLayer
from d4c.quantization.ranges.observer import Observer
from d4c.quantization.symmetries.fold_search import find_sites
from d4c.quantization.symmetries.folding import fold_batchnorms, norm_axes

FOLD_IMAGES, FOLD_PROMPTS = 32, 128
"""How many samples folds are chosen on; they need no more, since they set no range."""


@torch.no_grad()
def run_towers(
    clip: CLIP, pixels: Tensor, tokens: Tensor, towers: Sequence[str], progress: Progress = silent, batch: int = 64
) -> None:
    """Run calibration data through the towers, for hooks and observers to see it.

    Args:
        clip: A CLIP whose hooks or observers are set.
        pixels: Pixels [N, 3, S, S].
        tokens: Tokens [P, L].
        towers: Which towers to run; the data of the other one may be empty.
        progress: Called with the batches done and their number.
        batch: Samples at a time.
    """
    batches = [
        (tower, samples)
        for tower, inputs in (("image", pixels), ("text", tokens))
        if tower in towers
        for samples in clip.tower(tower).batches(inputs, batch)
    ]
    for done, (tower, samples) in enumerate(batches, 1):
        clip.tower(tower)(samples)
        progress(done, len(batches))


def prepare(
    clip: CLIP, pixels: Tensor, tokens: Tensor, towers: Sequence[str], plan: Plan, progress: Progress = silent
) -> None:
    """Rewrite a float CLIP in place, without changing its outputs, into what the deployable track quantizes.

    BatchNorm is folded into its convolution. The channel ranges of LayerNorms are folded into the layers that read
    them where that lowers the error at the bits of `plan` (`fold_search`). What is the same for all inputs, such as
    the first token of a text, becomes a constant.

    Args:
        clip: A float CLIP that may be changed.
        pixels: Calibration pixels [N, 3, S, S]; folds are chosen on 32 of them at most, evenly spread.
        tokens: Calibration tokens [P, L]; folds are chosen on 128 prompts at most.
        towers: Which towers to rewrite.
        plan: The formats that the towers will be quantized in.
        progress: Called with the folds chosen and their number.
    """
    for tower in towers:
        fold_batchnorms(clip.tower(tower))
    sites = list(find_sites(clip, towers, plan))
    few_pixels, few_tokens = (x[:: -(-len(x) // n) or 1] for x, n in ((pixels, FOLD_IMAGES), (tokens, FOLD_PROMPTS)))
    run_towers(clip, few_pixels, few_tokens, towers)
    for done, site in enumerate(sites, 1):
        site.choose()
        progress(done, len(sites))
    for tower, inputs in (("image", pixels), ("text", tokens)):
        if tower in towers:
            clip.tower(tower).fold_constants(inputs)


def calibrate(
    clip: CLIP,
    pixels: Tensor,
    tokens: Tensor,
    towers: Sequence[str],
    known_pixels: bool,
    rule: RangeRule = QuantizeConfig.ranges,
    progress: Progress = silent,
) -> None:
    """Set the range of every quantizer of a converted CLIP, in place, and round its weights to nearest.

    Activations are observed in float. The ranges of weights are always searched for the least error.

    Args:
        clip: A CLIP that `convert` has converted.
        pixels: Calibration pixels [N, 3, S, S].
        tokens: Calibration tokens [P, L].
        towers: Which towers to calibrate.
        known_pixels: Whether the first layer takes the range of all possible pictures, black to white after
            normalization, instead of that of the calibration images.
        rule: How the range of an activation follows from its values.
        progress: Called with thousandths of the work.

    Raises:
        DataError: A quantizer sees no data, or values that are not finite.
    """
    quantizers = {
        name: module
        for name, module in clip.named_modules()
        if isinstance(module, ActivationQuantizer) and name.split(".")[0] in towers
    }
    layers = [
        module
        for name, module in clip.named_modules()
        if isinstance(module, QuantizedLayer) and name.split(".")[0] in towers
    ]
    watching, choosing, rounding = parts(progress, [1, 1, 1])
    for name, quantizer in quantizers.items():
        quantizer.observer = Observer(quantizer.args, name, rule)
    try:
        run_towers(clip, pixels, tokens, towers, watching)
        twins, ranges = _twins(clip), {}
        for done, quantizer in enumerate(quantizers.values(), 1):
            twin = twins.get(quantizer, quantizer)
            if twin not in ranges:
                assert twin.observer is not None
                ranges[twin] = twin.observer.finish()
            quantizer.set_range(*ranges[twin])
            choosing(done, len(quantizers))
    finally:
        for quantizer in quantizers.values():
            quantizer.observer = None
    first = clip.image.get_submodule(clip.image.first_layer)
    if known_pixels and isinstance(first, QuantizedLayer):
        set_pixel_range(clip, first.input_quantizer)  # type: ignore[arg-type]
    for done, layer in enumerate(layers, 1):
        layer.calibrate_weight()
        rounding(done, len(layers))


def _twins(clip: CLIP) -> dict[ActivationQuantizer, ActivationQuantizer]:
    """Maps each reader of a LayerNorm to the first one with the same format: it needs the same range."""
    twins = {}
    for name in TOWERS:
        tower = clip.tower(name)
        for axis in norm_axes(tower):
            inputs = [getattr(tower.get_submodule(reader), "input_quantizer", None) for reader in axis.readers]
            quantizers = [quantizer for quantizer in inputs if isinstance(quantizer, ActivationQuantizer)]
            twins.update({other: quantizers[0] for other in quantizers if other.args == quantizers[0].args})
    return twins


def set_pixel_range(clip: CLIP, quantizer: ActivationQuantizer) -> None:
    """Set the range that any picture has after normalization: -mean / std to (1 - mean) / std over three channels."""
    mean, std = clip.config.mean, clip.config.std
    low = min(-m / s for m, s in zip(mean, std, strict=True))
    high = max((1 - m) / s for m, s in zip(mean, std, strict=True))
    scale = torch.tensor((high - low) / quantizer.args.qmax)
    quantizer.set_range(scale, (-low / scale).round())
