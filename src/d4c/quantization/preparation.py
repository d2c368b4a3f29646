"""What quantizing and measuring start from: checked inputs, and a converted CLIP with its ranges."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from d4c.calibration.softening import softened
from d4c.errors import DataError, SettingError
from d4c.models.clip import CLIP
from d4c.quantization.calibrate import calibrate
from d4c.quantization.config import RangeRule
from d4c.quantization.formats.scheme import Track
from d4c.quantization.placement import Plan, convert
from d4c.quantization.quantized import QuantizedCLIP

if TYPE_CHECKING:
    from d4c.calibration.images import CalibrationSet

# The published method chooses ranges on a quarter of its 128 images and a sixteenth of its 512 prompts.
PUBLISHED_RANGE_SAMPLES = 32


def working_copy(clip: CLIP, track: Track) -> CLIP:
    """A float CLIP that may be changed, counting positions as the track does.

    Raises SettingError for a quantized one.
    """
    if isinstance(clip, QuantizedCLIP):
        raise SettingError(f"{clip.name!r} is quantized already; quantize the float CLIP that it was made from.")
    copied = copy.deepcopy(clip).eval().requires_grad_(False)
    copied.text.trim = track == "deployable"
    return copied


def calibration_inputs(
    clip: CLIP, calibration: CalibrationSet, prompts: Sequence[str], soften: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels [N, 3, S, S], softened or as they are, and tokens [P, L] on the model's device.

    Raises DataError for images that do not fit the model and for an empty list of prompts.
    """
    pixels = calibration.pixels.to(clip.device)
    size = clip.image_size
    if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, size, size) or not len(pixels):
        raise DataError(
            f"The calibration images have shape {tuple(pixels.shape)}, but {clip.name!r} takes [N, 3, {size}, {size}]; "
            "synthesize them from this model."
        )
    if not bool(pixels.isfinite().all()):
        raise DataError("The calibration images contain NaN or infinite values; synthesize them anew.")
    if not prompts:
        raise DataError("The list of calibration prompts is empty; give at least one prompt.")
    return softened(pixels) if soften else pixels, clip.tokenize(list(prompts)).to(clip.device)


def with_ranges(
    float_clip: CLIP,
    plan: Plan,
    track: Track,
    pixels: torch.Tensor,
    tokens: torch.Tensor,
    towers: Sequence[str],
    rule: RangeRule = "mse",
) -> CLIP:
    """A copy converted by the plan, every range chosen and the weights rounded to nearest."""
    quantized = copy.deepcopy(float_clip)
    convert(quantized, plan, track)
    few = PUBLISHED_RANGE_SAMPLES if track == "paper" else None
    calibrate(quantized, pixels[:few], tokens[:few], towers, track == "deployable", rule)
    return quantized
