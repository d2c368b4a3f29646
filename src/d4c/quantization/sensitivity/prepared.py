"""Prepares a float and a quantized model whose layers can be exchanged, without reconstruction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from d4c.calibration.prompts import NOUNS, generic_prompts
from d4c.models.clip import CLIP
from d4c.models.config import TOWERS
from d4c.progress import Progress, parts
from d4c.quantization.calibrate import prepare
from d4c.quantization.formats.scheme import Scheme
from d4c.quantization.placement import Plan, default_overrides, make_plan
from d4c.quantization.preparation import calibration_inputs, check_embeddings, with_ranges, working_copy
from d4c.quantization.sensitivity.probe import Probe

if TYPE_CHECKING:
    from d4c.calibration.images import CalibrationSet

FOLDING, RANGES = 1.0, 2.0
"""About how long each part of the work takes relative to the other, for the progress."""


def prepared_probe(
    clip: CLIP, calibration: CalibrationSet, scheme: Scheme, prompts: Sequence[str] | None, progress: Progress
) -> tuple[Probe, Plan]:
    """Bring a CLIP into the form that the deployable track quantizes, and quantize a copy with rounding to nearest.

    Args:
        clip: The float CLIP, which is not changed.
        calibration: Images that ranges are chosen on and divergences are measured on.
        scheme: Bits of weights and activations.
        prompts: Prompts of the ranges and of the distribution; by default 180 generic ones, each of another noun.
        progress: Called with thousandths of the work.

    Returns:
        Both models in a probe, and the plan of the quantized one.

    Raises:
        SettingError: The scheme is not valid for the CLIP, or there is one tower alone.
        DataError: The calibration images or the prompts cannot be used.
        CheckpointError: The embeddings of a tower are zero or the same for different inputs.
    """
    clip.require(TOWERS, "Sensitivity", "use d4c doctor, which looks at each tower by itself")
    folding, ranging = parts(progress, [FOLDING, RANGES])
    float_clip = working_copy(clip, "deployable")
    texts = generic_prompts(len(NOUNS)) if prompts is None else prompts
    pixels, tokens = calibration_inputs(float_clip, calibration, texts, soften=True)
    check_embeddings(float_clip, {"image": pixels, "text": tokens})
    plan = make_plan(float_clip, scheme, "deployable", default_overrides(float_clip, "deployable"))
    prepare(float_clip, pixels, tokens, TOWERS, plan, folding)
    quantized, plan = with_ranges(float_clip, plan, "deployable", pixels, tokens, TOWERS, progress=ranging)
    return Probe(float_clip, quantized, pixels, tokens), plan
