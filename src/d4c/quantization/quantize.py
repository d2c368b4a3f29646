"""`quantize`: from a float CLIP and calibration images to a quantized CLIP."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from d4c.calibration.prompts import NOUNS, generic_prompts
from d4c.errors import CheckpointError, warn
from d4c.models.clip import CLIP
from d4c.models.config import TOWERS
from d4c.models.formats.identity import model_record
from d4c.progress import WHOLE, Progress, Report, parts, reporting
from d4c.quantization.calibrate import prepare
from d4c.quantization.config import QuantizeConfig, TowerName, quantize_config
from d4c.quantization.formats.scheme import Override, Scheme, override_name, parse_override
from d4c.quantization.layer_patterns import matches
from d4c.quantization.layers.quantized_weight import QuantizedLayer
from d4c.quantization.placement import Plan, default_overrides, make_plan
from d4c.quantization.preparation import calibration_inputs, check_embeddings, with_ranges, working_copy
from d4c.quantization.quantized import QuantizedCLIP
from d4c.quantization.rounding.reconstruction import UnitKind, reconstruct
from d4c.quantization.rounding.resume import Checkpoint, tensor_hash
from d4c.quantization.sensitivity.allocation import Budget, budget_of, mixed_overrides
from d4c.quantization.sensitivity.probe import Probe
from d4c.quantization.stages import Stage
from d4c.settings.presets import Preset
from d4c.version import __version__

if TYPE_CHECKING:
    from d4c.calibration.images import CalibrationSet

PROMPTS = 512
FEW_PROMPTS = 32
"""Fewer calibration prompts are warned of: with four, prompts of other words lose a cosine of 0.07 even at 8 bits."""

Inputs = dict[TowerName, Tensor]
"""Pixels [N, 3, S, S] and tokens [P, L] by the tower that reads them."""


def quantize(
    clip: CLIP,
    calibration: CalibrationSet | None,
    scheme: str | Scheme | QuantizeConfig | None = None,
    *,
    preset: Preset | None = None,
    prompts: Sequence[str] | None = None,
    progress: Report = "auto",
    checkpoint: str | Path | None = None,
    **settings: Any,
) -> QuantizedCLIP:
    """Quantize the towers of a float CLIP.

    Ranges come from the images and the prompts; then rounding and activation scales are learned unit by unit.

    Args:
        clip: The float model, which is left as it is.
        calibration: Images that fit the model, from `synthesize` or of your own; None for a text tower alone.
        scheme: Bits such as "W4A8", or a record of all settings.
        preset: "quick", "default" or "paper", where the settings start that are not given one by one.
        prompts: Calibration prompts for the text tower, by default 512 generic ones.
        progress: Called with (thousandths done, 1000); "auto" shows a bar on a terminal, None shows nothing.
        checkpoint: Folder that keeps finished units: a call with the same arguments resumes there and ends with the
            same weights, bit for bit on a CPU; on a GPU learned rounding differs a little from run to run, resumed or
            not. Remove it once the result is saved (`remove_checkpoint`).
        **settings: Fields of `QuantizeConfig` to replace, such as `reconstruction="gptq"` or
            `overrides={"image.blocks.0.*": "W8A8"}`.

    Returns:
        A CLIP that computes with quantized weights and activations; its `recipe` is the resolved record, with what the
        data and the model were.

    Raises:
        SettingError: A setting is invalid, or an override matches no layer.
        CheckpointError: A weight is not finite, or a tower gives no embeddings that tell its inputs apart.
        DataError: The images do not fit the model, or an activation is not finite.

    Warns if ranges rest on a single image or on fewer than 32 prompts.
    """
    config = quantize_config(scheme, preset, settings).resolved()
    with reporting(progress, f"quantize {config.scheme}") as report:
        report(0, WHOLE)
        quantized = _quantize(clip, calibration, config, prompts, report, checkpoint)
        report(WHOLE, WHOLE)
    return quantized


def _quantize(
    clip: CLIP,
    calibration: CalibrationSet | None,
    config: QuantizeConfig,
    prompts: Sequence[str] | None,
    progress: Progress,
    checkpoint: str | Path | None,
) -> QuantizedCLIP:
    """`quantize` by a resolved record."""
    started = time.perf_counter()
    config = for_towers(config, clip)
    converting, rebuilding = parts(progress, [_cost_of_converting(config), _cost_of_rebuilding(config)])
    if on_gpu := clip.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(clip.device)
    float_clip = working_copy(clip, config.track)
    texts = generic_prompts(PROMPTS, seed=0) if prompts is None else prompts
    pixels, tokens = calibration_inputs(float_clip, calibration, texts, config.soften)
    _check_weights(float_clip, config)
    inputs: Inputs = {"image": pixels, "text": tokens}
    check_embeddings(float_clip, {tower: inputs[tower] for tower in config.towers})
    _warn_of_few(len(pixels), len(tokens), config)
    quantized, plan, config = _converted(float_clip, config, inputs, converting)
    recipe = _recipe(config, clip, calibration, inputs)
    if config.reconstruction != "none":
        # The order of overrides counts, and a fingerprint sorts what has names.
        key = {**recipe, "learning": asdict(config.learning()), "order": list(config.overrides)}
        key |= {tower: tensor_hash(tensor) for tower, tensor in inputs.items()}
        unfinished = None if checkpoint is None else Checkpoint(Path(checkpoint), key)
        _reconstruct(quantized, float_clip, config, inputs, rebuilding, unfinished)
    for module in quantized.modules():
        if isinstance(module, QuantizedLayer):
            module.freeze()
    quantized.text.trim = True
    recipe["seconds"] = round(time.perf_counter() - started, 3)
    recipe["peak_memory_bytes"] = torch.cuda.max_memory_allocated(clip.device) if on_gpu else None
    return QuantizedCLIP(quantized, plan, recipe)


def check_layers(clip: CLIP, config: QuantizeConfig) -> None:
    """Raise SettingError, before any work, for what the layers of a model cannot have: an override, or a target."""
    _planned(clip, for_towers(config, clip))


def for_towers(config: QuantizeConfig, clip: CLIP) -> QuantizeConfig:
    """The record with the towers that a model has; raises SettingError for what takes a tower that it has not."""
    towers = tuple(tower for tower in config.towers if tower in clip.towers)
    if not towers:
        clip.require(config.towers, f"Quantizing the {config.towers[0]} tower", f"use towers={clip.towers[0]!r}")
    if _has_target(config):
        clip.require(TOWERS, "A target of bits or bytes", "give layers their widths by overrides")
    if config.importance == "zeroshot":
        clip.require(TOWERS, "The importance 'zeroshot'", "use 'embedding'")
    return replace(config, towers=towers)


def _check_weights(clip: CLIP, config: QuantizeConfig) -> None:
    for name, tensor in clip.state_dict().items():
        if name.split(".")[0] in config.towers and not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"{name} of {clip.name!r} contains NaN or infinite values; quantize an undamaged checkpoint."
            )


def _warn_of_few(images: int, prompts: int, config: QuantizeConfig) -> None:
    """What was seen sets every range, and what others need beyond is cut off."""
    if "image" in config.towers and images == 1:
        warn("The image ranges rest on a single calibration image; give some dozens.")
    if "text" in config.towers and prompts < FEW_PROMPTS:
        warn(f"The text ranges rest on few prompts ({prompts}); give at least {FEW_PROMPTS}.")


FOLDING, RANGES, WIDTHS, SOLVING = 1.0, 2.0, 20.0, 3.0
"""About how long a piece of the work takes relative to the others, for the progress."""
LEARNED_SAMPLES = 20
"""Samples that are learned from in each unit in about the time of folding."""


def _cost_of_converting(config: QuantizeConfig) -> float:
    return FOLDING + RANGES + (WIDTHS + RANGES if _has_target(config) else 0.0)


def _cost_of_rebuilding(config: QuantizeConfig) -> float:
    if config.reconstruction == "none":
        return 0.0
    if config.reconstruction == "gptq":
        return SOLVING
    learning = config.learning()
    return SOLVING + learning.iterations * learning.batch_size / LEARNED_SAMPLES


def _has_target(config: QuantizeConfig) -> bool:
    """Whether layers get widths of their own to fit a target."""
    return config.target_bits is not None or config.target_bytes is not None


def _converted(
    float_clip: CLIP, config: QuantizeConfig, inputs: Inputs, progress: Progress
) -> tuple[CLIP, Plan, QuantizeConfig]:
    """A converted copy with its ranges, its plan, and the record with what layers follow of it: exceptions, and whether
    the class token has a range of its own.

    On the deployable track `float_clip` is folded in place.
    """
    scheme, track = Scheme.parse(config.scheme), config.track
    pixels, tokens = inputs["image"], inputs["text"]
    folding, ranging, measuring, ranging_again = parts(
        progress, [FOLDING, RANGES, *([WIDTHS, RANGES] if _has_target(config) else [0.0, 0.0])]
    )
    exceptions, plan, budget = _planned(float_clip, config)
    # Overrides may leave all of a tower float, which then is not prepared either.
    towers = tuple(tower for tower in config.towers if any(name.split(".")[0] == tower for name in plan))
    if track == "deployable":
        prepare(float_clip, pixels, tokens, towers, plan, folding)
    quantized, plan = with_ranges(float_clip, plan, track, pixels, tokens, towers, config.ranges, ranging)
    if budget is not None:
        probe = Probe(float_clip, quantized, pixels, tokens[: len(NOUNS)])
        exceptions |= mixed_overrides(probe, scheme, budget, measuring)
        plan = make_plan(float_clip, scheme, track, exceptions, towers, config.full_range, config.wide_class_token)
        quantized, plan = with_ranges(float_clip, plan, track, pixels, tokens, towers, config.ranges, ranging_again)
    followed = {
        pattern: override_name(override)
        for pattern, override in exceptions.items()
        if override is None or any(matches(pattern, name) for name in plan)
    }
    wide_class_token = any(entry.class_token for entry in plan.values())
    return quantized, plan, replace(config, overrides=followed, towers=towers, wide_class_token=wide_class_token)


def _planned(clip: CLIP, config: QuantizeConfig) -> tuple[dict[str, Override], Plan, Budget | None]:
    """The exceptions of a record, the plan that follows from them, and what a target allows where there is one."""
    scheme, track = Scheme.parse(config.scheme), config.track
    exceptions: dict[str, Override] = {
        **default_overrides(clip, track),
        **{pattern: parse_override(text) for pattern, text in config.overrides.items()},
    }
    plan = make_plan(clip, scheme, track, exceptions, config.towers, config.full_range, config.wide_class_token)
    if not _has_target(config):
        return exceptions, plan, None
    return exceptions, plan, budget_of(clip, plan, scheme, exceptions, config.target_bits, config.target_bytes)


def _recipe(config: QuantizeConfig, clip: CLIP, calibration: CalibrationSet | None, inputs: Inputs) -> dict[str, Any]:
    """The record, and what it was applied to; JSON-ready."""
    return {
        "d4c": __version__,
        "torch": torch.__version__,
        **config.to_dict(),
        "images": len(inputs["image"]),
        "prompts": len(inputs["text"]),
        "model": model_record(clip),
        "calibration": {} if calibration is None else calibration.provenance,
        "device": str(clip.device),
    }


def _reconstruct(
    quantized: CLIP,
    float_clip: CLIP,
    config: QuantizeConfig,
    inputs: Inputs,
    progress: Progress,
    checkpoint: Checkpoint | None,
) -> None:
    """Rebuild the towers of `quantized` in place."""
    sizes = [len(float_clip.tower(tower).stages()) for tower in config.towers]
    for tower, progress_of_tower in zip(config.towers, parts(progress, sizes), strict=True):
        reconstruct(
            quantized,
            float_clip,
            tower,
            inputs[tower],
            lambda stage: _unit_kind(stage, config),
            config.learning(),
            config.seed,
            progress_of_tower,
            checkpoint,
        )


def _unit_kind(stage: Stage, config: QuantizeConfig) -> UnitKind:
    """What is rebuilt at once in a stage."""
    if config.reconstruction == "published":
        return stage.published_unit
    return config.reconstruction if config.reconstruction in ("layer", "gptq") else "block"
