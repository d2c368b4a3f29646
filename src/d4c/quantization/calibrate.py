"""Choosing every range: one pass of float data through quantizers that only watch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from d4c.models.clip import CLIP
from d4c.models.layers import Block
from d4c.models.resnet import ModifiedResNet
from d4c.quantization.placement import Plan
from d4c.quantization.quantized_layers import ActivationQuantizer, QuantizedLayer
from d4c.quantization.ranges.observer import Observer, RangeRule
from d4c.quantization.symmetries.fold_search import find_sites
from d4c.quantization.symmetries.folding import fold_batchnorms, norm_readers

FOLD_IMAGES, FOLD_PROMPTS = 32, 128


def by_length(clip: CLIP, tokens: Tensor, batch: int = 64) -> Iterator[Tensor]:
    """Token ids [N, L] in batches of equal prompt length, so that no batch holds a position that reaches no output.

    With `clip.text.trim` false every position counts and the batches are as they come.
    """
    if not clip.text.trim:
        yield from tokens.split(batch)
        return
    length = clip.text.end_of_text(tokens)
    for value in length.unique().tolist():
        yield from tokens[length == value].split(batch)


@torch.no_grad()
def run_towers(clip: CLIP, pixels: Tensor, tokens: Tensor, towers: Sequence[str], batch: int = 64) -> None:
    """Send calibration data through the towers for what hooks and observers see."""
    if "image" in towers:
        for part in pixels.split(batch):
            clip.encode_image(part)
    if "text" in towers:
        for part in by_length(clip, tokens, batch):
            clip.encode_text(part)


def prepare(clip: CLIP, pixels: Tensor, tokens: Tensor, towers: Sequence[str], plan: Plan) -> None:
    """Fold a float CLIP in place for the deployable track: BatchNorm, and what narrows ranges at the bits of `plan`.

    Folds are chosen on at most 32 images and 128 prompts, evenly spread: they are guided by ranges and set none. The
    begin of text, a constant, leaves the states of the text tower behind them.
    """
    if "image" in towers and isinstance(clip.image, ModifiedResNet):
        fold_batchnorms(clip.image)
    sites = list(find_sites(clip, towers, plan))
    few_pixels, few_tokens = (x[:: -(-len(x) // n) or 1] for x, n in ((pixels, FOLD_IMAGES), (tokens, FOLD_PROMPTS)))
    run_towers(clip, few_pixels, few_tokens, towers)
    for site in sites:
        site.choose()
    if "text" in towers:
        clip.text.keep_begin(int(tokens[0, 0]))


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
    first: nn.Module = clip.image.stem.conv1 if isinstance(clip.image, ModifiedResNet) else clip.image.patch_embed
    if known_pixels and isinstance(first, QuantizedLayer):
        set_pixel_range(clip, first.input_quantizer)  # type: ignore[arg-type]
    for name, module in clip.named_modules():
        if isinstance(module, QuantizedLayer) and name.split(".")[0] in towers:
            module.calibrate_weight()


def _twins(clip: CLIP) -> dict[ActivationQuantizer, ActivationQuantizer]:
    """For a quantizer that reads the same tensor in the same format as another one: that other one."""
    twins = {}
    for block in clip.modules():
        for _, readers in norm_readers(block) if isinstance(block, Block) else ():
            found = [getattr(reader, "input_quantizer", None) for reader in readers]
            quantizers = [quantizer for quantizer in found if isinstance(quantizer, ActivationQuantizer)]
            twins.update({other: quantizers[0] for other in quantizers if other.args == quantizers[0].args})
    return twins


def set_pixel_range(clip: CLIP, quantizer: ActivationQuantizer) -> None:
    """Range of normalized pixels of any picture: (0 - mean) / std to (1 - mean) / std over the three channels."""
    mean, std = clip.config.mean, clip.config.std
    low = min(-m / s for m, s in zip(mean, std, strict=True))
    high = max((1 - m) / s for m, s in zip(mean, std, strict=True))
    scale = torch.tensor((high - low) / quantizer.args.qmax)
    quantizer.set_range(scale, (-low / scale).round())
