"""What quantizing and measuring sensitivity start from: checked inputs, and a converted CLIP with its ranges."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from d4c.calibration.softening import softened
from d4c.errors import CheckpointError, DataError, SettingError
from d4c.models.clip import CLIP
from d4c.progress import Progress, silent
from d4c.quantization.calibrate import calibrate
from d4c.quantization.config import QuantizeConfig, RangeRule
from d4c.quantization.formats.scheme import Track
from d4c.quantization.loud_channels import with_loud_channels
from d4c.quantization.placement import Plan, convert
from d4c.quantization.quantized import QuantizedCLIP
from d4c.zeroshot.flaws import flaw

if TYPE_CHECKING:
    from d4c.calibration.images import CalibrationSet

CHECKED_SAMPLES = 8
PUBLISHED_RANGE_SAMPLES = 32
"""The published method chooses ranges on 32 of its 128 images and 32 of its 512 prompts."""


def working_copy(clip: CLIP, track: Track) -> CLIP:
    """A copy of a float CLIP that may be changed, and whose text tower runs as the track wants it.

    On the deployable track the text tower leaves out positions after the end of text; on the paper track, as
    published, it computes all of them.

    Raises:
        SettingError: The CLIP is quantized.
    """
    if isinstance(clip, QuantizedCLIP):
        raise SettingError(f"{clip.name!r} is already quantized; give the float CLIP that it was made from.")
    copied = copy.deepcopy(clip).eval().requires_grad_(False)
    copied.text.trim = track == "deployable"
    return copied


def calibration_inputs(
    clip: CLIP, calibration: CalibrationSet | None, prompts: Sequence[str], soften: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Check calibration data and move it to the model's device.

    Args:
        clip: The model, whose image size and tokenizer count.
        calibration: Images that were made for the model; a text tower alone reads none.
        prompts: At least one text; an image tower alone reads none.
        soften: Whether to blur every second image (`softened`).

    Returns:
        Pixels [N, 3, S, S] and tokens [P, L], none of them for a tower that is not there.

    Raises:
        DataError: The images do not fit the model or are not finite, or there are no images or no prompts.
    """
    pixels, tokens = torch.zeros(0, 3, 1, 1, device=clip.device), torch.zeros(0, 1, dtype=torch.int64)
    if "image" in clip.towers:
        pixels = checked_pixels(clip, calibration)
    if "text" in clip.towers:
        if not prompts:
            raise DataError("The list of calibration prompts is empty; give at least one prompt.")
        tokens = clip.tokenize(list(prompts))
    return softened(pixels) if soften and len(pixels) else pixels, tokens.to(clip.device)


def checked_pixels(clip: CLIP, calibration: CalibrationSet | None) -> torch.Tensor:
    """Return the pixels of calibration images on the device of a model; raises DataError if they do not fit it."""
    if calibration is None:
        raise DataError(f"There are no calibration images, and {clip.name!r} has an image tower; give some.")
    pixels = calibration.pixels.to(clip.device)
    size = clip.image_size
    if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, size, size) or not len(pixels):
        raise DataError(
            f"The calibration images have shape {tuple(pixels.shape)}, but {clip.name!r} takes [N, 3, {size}, {size}]; "
            "synthesize images from this model."
        )
    if not bool(pixels.isfinite().all()):
        raise DataError("The calibration images contain NaN or infinite values; synthesize them again.")
    return pixels


def check_embeddings(clip: CLIP, samples: Mapping[str, torch.Tensor]) -> None:
    """Refuse a tower that is damaged, before the work: of zeros, say, from a file that was only partly written.

    Args:
        clip: The float model.
        samples: Pixels [N, 3, S, S] or tokens [P, L] for each tower that is looked at.

    Raises:
        CheckpointError: The embeddings of a tower are zero or the same for different inputs.
    """
    for tower, inputs in samples.items():
        few = inputs[:: max(len(inputs) // CHECKED_SAMPLES, 1)][:CHECKED_SAMPLES]
        with torch.no_grad():
            embeddings = clip.tower(tower)(few).float().cpu().numpy()
        # What is not finite is refused by the name of its layer when ranges are chosen.
        reason = flaw(embeddings, different=len(few.unique(dim=0)) > 1) if np.isfinite(embeddings).all() else None
        if reason:
            raise CheckpointError(
                f"The {tower} tower of {clip.name!r} is damaged: of its embeddings of different inputs {reason}; "
                "use an undamaged checkpoint."
            )


def with_ranges(
    float_clip: CLIP,
    plan: Plan,
    track: Track,
    pixels: torch.Tensor,
    tokens: torch.Tensor,
    towers: Sequence[str],
    rule: RangeRule = QuantizeConfig.ranges,
    progress: Progress = silent,
) -> tuple[CLIP, Plan]:
    """A quantized copy with every range chosen and all weights rounded to nearest, and its plan.

    On the deployable track the plan gets the loud channels of the layers that have some.

    Args:
        float_clip: The float CLIP, on the deployable track after `prepare`.
        plan: Which layers are quantized, and how.
        track: Decides how many samples ranges are chosen on, and whether the range of pixels is known.
        pixels: Calibration pixels [N, 3, S, S].
        tokens: Calibration tokens [P, L].
        towers: Which towers the plan quantizes.
        rule: How the range of an activation follows from its values.
        progress: Called with thousandths of the work.

    Raises:
        DataError: An activation is not finite.
    """
    if track == "deployable":
        plan = with_loud_channels(float_clip, plan, pixels, tokens, towers, rule)
    quantized = copy.deepcopy(float_clip)
    convert(quantized, plan, track)
    samples = PUBLISHED_RANGE_SAMPLES if track == "paper" else None
    calibrate(quantized, pixels[:samples], tokens[:samples], towers, track == "deployable", rule, progress)
    return quantized, plan
