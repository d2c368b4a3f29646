"""Brings a float model into the form that an artifact was quantized in, so that the two can be compared by layer."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from d4c.calibration.prompts import CALIBRATION_TEMPLATES, NOUNS, generic_prompts
from d4c.models.clip import CLIP
from d4c.models.config import TOWERS
from d4c.models.tower import replace_module
from d4c.quantization.calibrate import prepare
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_activations import QuantizedMatMul
from d4c.quantization.layers.quantized_weight import QuantizedLayer
from d4c.quantization.preparation import calibration_inputs, working_copy

if TYPE_CHECKING:
    from d4c.calibration.images import CalibrationSet
    from d4c.quantization.quantized import QuantizedCLIP

TOLERANCE = 1e-3
"""Largest difference of a float tensor from the artifact's, relative to its largest value: sums of float32 that were
added in another order stay far below."""


@dataclass(frozen=True)
class FloatForm:
    """A float model in the form of an artifact.

    Attributes:
        clip: The model.
        samples: What the artifact was calibrated on, by tower: pixels [N, 3, S, S] and tokens [P, L].
        towers: The quantized towers whose form is that of the artifact.
    """

    clip: CLIP
    samples: dict[str, Tensor]
    towers: tuple[str, ...]


def float_form(clip: CLIP, quantized: QuantizedCLIP, images: CalibrationSet) -> FloatForm:
    """Repeat what `quantize` did to the float model before it rounded anything.

    The artifact keeps what stayed float, such as norms; a tower in which these tensors differ was quantized in another
    form, as with prompts of the user's own, and is left out.

    Args:
        clip: The float model, which is not changed.
        quantized: The artifact.
        images: The images that it was calibrated on.
    """
    recipe = quantized.recipe
    copied = working_copy(clip, recipe["track"])
    count = min(recipe["prompts"], len(NOUNS) * len(CALIBRATION_TEMPLATES))
    prompts = generic_prompts(max(count, 1))
    pixels, tokens = calibration_inputs(copied, images, prompts, bool(recipe.get("soften")))
    towers = [tower for tower in TOWERS if tower in recipe["towers"]]
    if recipe["track"] == "deployable":
        prepare(copied, pixels, tokens, towers, quantized.plan)
    copied.text.trim = True
    _separate_products(copied, quantized)
    same = tuple(tower for tower in towers if _is_same(copied, quantized, tower))
    return FloatForm(copied, {"image": pixels, "text": tokens}, same)


def _separate_products(clip: CLIP, quantized: QuantizedCLIP) -> None:
    """Let attention run its two products one by one, where each can be seen, as it does with quantized ones."""
    for name, module in quantized.named_modules():
        if isinstance(module, QuantizedMatMul):
            product = copy.deepcopy(module)
            product.a.enabled = product.b.enabled = False
            replace_module(clip, name, product)


def _is_same(clip: CLIP, quantized: QuantizedCLIP, tower: str) -> bool:
    own = clip.state_dict()
    for name, value in _float_tensors(quantized):
        if name.startswith(f"{tower}.") and value.is_floating_point():
            other = own.get(name)
            if other is None or other.shape != value.shape:
                return False
            if float((other - value).abs().max()) > TOLERANCE * max(float(value.abs().max()), 1e-6):
                return False
    return True


def _float_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers outside of quantized layers, by name."""
    tensors: list[tuple[str, Tensor]] = []
    for name, module in model.named_modules():
        if not isinstance(module, QuantizedLayer | ActivationQuantizer):
            for key, value in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                tensors.append((f"{name}.{key}".lstrip("."), value))
    return tensors
