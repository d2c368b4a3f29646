"""Calibration: folds and ranges are chosen from what passes through the towers in float."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from d4c.models.clip import CLIP
from d4c.models.config import TOWERS
from d4c.progress import Progress, parts, silent
from d4c.quantization.config import QuantizeConfig, RangeRule
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_product import QuantizedLinear
from d4c.quantization.layers.quantized_weight import QuantizedLayer
from d4c.quantization.placement import Plan
from d4c.quantization.ranges.observer import Observer
from d4c.quantization.ranges.output_error import OutputObserver
from d4c.quantization.symmetries.batch_norm import fold_batchnorms
from d4c.quantization.symmetries.canonical import canonicalize

FORM_IMAGES, FORM_PROMPTS = 32, 128
"""How many samples the form of a tower is chosen on; it needs no more, since it sets no range."""


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

    BatchNorm is folded into its convolution. Then each tower is brought into the form that `canonical` describes, at
    the bits of `plan`. What is the same for all inputs, such as the first token of a text, becomes a constant.

    Args:
        clip: A float CLIP that may be changed.
        pixels: Calibration pixels [N, 3, S, S]; the form is chosen on 32 of them at most, evenly spread.
        tokens: Calibration tokens [P, L]; the form is chosen on 128 prompts at most.
        towers: Which towers to rewrite.
        plan: The formats that the towers will be quantized in.
        progress: Called with thousandths of the work.
    """
    inputs = {"image": (pixels, FORM_IMAGES), "text": (tokens, FORM_PROMPTS)}
    for name, progress_of_tower in zip(towers, parts(progress, [1] * len(towers)), strict=True):
        tower, (samples, count) = clip.tower(name), inputs[name]
        fold_batchnorms(tower)
        canonicalize(tower, name, samples[:: -(-len(samples) // count) or 1], plan, progress_of_tower)
        tower.fold_constants(samples)


def calibrate(
    clip: CLIP,
    pixels: Tensor,
    tokens: Tensor,
    towers: Sequence[str],
    deployable: bool,
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
        deployable: Whether the first layer takes the range of all possible pictures, black to white after
            normalization, instead of that of the calibration images; and few bits after an activation, the range of
            least error of the layer's output.
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
    readers = _output_readers(clip, towers) if deployable and rule == "mse" else {}
    for name, quantizer in quantizers.items():
        weight = readers.get(quantizer)
        observer = (
            Observer(quantizer.args, name, rule) if weight is None else OutputObserver(quantizer.args, name, weight)
        )
        quantizer.observer = observer
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
    if deployable and isinstance(first, QuantizedLayer):
        set_pixel_range(clip, first.input_quantizer)  # type: ignore[arg-type]
    for done, layer in enumerate(layers, 1):
        layer.calibrate_weight()
        rounding(done, len(layers))


def _output_readers(clip: CLIP, towers: Sequence[str]) -> dict[ActivationQuantizer, Tensor]:
    """The weights that read each input whose range is chosen by the error of the output: few bits, after an activation.

    At 8 bits the two ways of choosing differ by nothing that can be measured.
    """
    readers = {}
    for tower in towers:
        for name in clip.tower(tower).rigid_inputs():
            layer = clip.tower(tower).get_submodule(name)
            if isinstance(layer, QuantizedLinear) and layer.input_quantizer.args.num_bits < 8:
                quantizer, weight = layer.input_quantizer, layer.source_weight()
                readers[quantizer] = weight if quantizer.loud is None else weight[:, quantizer.quiet_channels]
    return readers


def _twins(clip: CLIP) -> dict[ActivationQuantizer, ActivationQuantizer]:
    """Maps each reader of a shared tensor to the first one with the same format: it needs the same range."""
    twins = {}
    for name in TOWERS:
        tower = clip.tower(name)
        for shared in tower.shared_inputs():
            whole = [reader for reader, _ in shared.readers if reader not in shared.of_one_row]
            inputs = [getattr(tower.get_submodule(reader), "input_quantizer", None) for reader in whole]
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
