"""The verb `quantize`: from a float CLIP and calibration images to a quantized CLIP."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from d4c.calibration.prompts import NOUNS, generic_prompts
from d4c.errors import CheckpointError, SettingError
from d4c.models.clip import CLIP, TOWERS
from d4c.models.formats.identity import model_hash
from d4c.progress import Progress
from d4c.quantization.calibrate import prepare
from d4c.quantization.formats.scheme import Scheme, Track
from d4c.quantization.placement import default_overrides, make_plan
from d4c.quantization.preparation import calibration_inputs, with_ranges, working_copy
from d4c.quantization.quantized import QuantizedCLIP
from d4c.quantization.quantized_layers import QuantizedLayer
from d4c.quantization.ranges.observer import RangeRule
from d4c.quantization.rounding.optimization import PAPER, Importance, ReconstructionConfig
from d4c.quantization.rounding.reconstruction import UnitKind, reconstruct
from d4c.quantization.rounding.resume import Checkpoint, tensor_hash
from d4c.quantization.sensitivity.allocation import mixed_overrides
from d4c.quantization.sensitivity.measure import Probe
from d4c.quantization.stages import Stage
from d4c.version import __version__

if TYPE_CHECKING:
    from d4c.calibration.images import CalibrationSet

Reconstruction = Literal["block", "layer", "published", "gptq", "none"]
PROMPTS = 512
FEW_PROMPTS = 32
"""Fewer calibration prompts are warned of: with four, prompts of other words lose a cosine of 0.07 even at 8 bits."""


def quantize(
    clip: CLIP,
    scheme: str | Scheme,
    calibration: CalibrationSet,
    *,
    track: Track = "deployable",
    ranges: RangeRule = "mse",
    reconstruction: Reconstruction | None = None,
    iterations: int | None = None,
    batch_size: int | None = None,
    importance: Importance | None = None,
    overrides: Mapping[str, str | Scheme] | None = None,
    target_bits: float | None = None,
    target_bytes: int | None = None,
    safe_int8: bool = False,
    soften: bool = True,
    towers: Sequence[str] = TOWERS,
    prompts: Sequence[str] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    checkpoint: str | Path | None = None,
) -> QuantizedCLIP:
    r"""Quantize the towers of a float CLIP; the CLIP itself is left as it is.

    Ranges come from the calibration images and from `prompts` (by default 512 generic ones): those of least error
    ("mse"), or for comparison from the smallest to the largest value ("minmax") or over all but a thousandth of the
    values ("percentile"); weights are always searched for the least error. Then rounding and activation scales are
    learned unit by unit, in `iterations` steps of `batch_size` samples each: whole blocks ("block", the deployable
    default), single layers ("layer"), as published ("published": transformer layers, ResNet bottlenecks; default of
    track "paper"), or not at all ("none": ranges only). With an `importance` other than "none" each token of
    a vision transformer counts by what its errors do to the embedding ("embedding") or to the zero-shot distribution
    over generic prompts ("zeroshot"; `token_importance`). `overrides` maps patterns over layer names to schemes, such
    as {r"image\.blocks\.0\..*": "W8A8"}; they come after the track's own exceptions.

    With `target_bits` (mean bits a weight) or `target_bytes` (of packed weights; scales, biases and norms come on top)
    the layers without exception get widths of their own, see `mixed_overrides`: the divergence of each at each width is
    measured on the images and the first 180 prompts. `safe_int8` keeps 8-bit weights within -63 .. 63, so that
    processors without VNNI, which add two products in 16 bits, are exact as well; other widths are so anyway.

    With `soften` every second calibration image is used at a half or a quarter of its sharpness, so that the result
    holds for enlarged and blurred pictures, too (`softened`; never on track "paper").

    The folder `checkpoint` keeps what is rebuilt: a call with the same arguments goes on there and ends with the same
    weights, bit for bit on the same device. Remove it once the result is saved (`remove_checkpoint`).

    Warns if ranges rest on a single image or on fewer than 32 prompts. Raises SettingError for an invalid scheme,
    track, tower, override or target, or `safe_int8` on track "paper", whose weights no integer kernel reads;
    CheckpointError for weights that are not finite; DataError for unusable data and for activations that are not
    finite.
    """
    started = time.perf_counter()
    scheme = Scheme.parse(scheme)
    if track not in ("deployable", "paper"):
        raise SettingError(f"The track {track!r} is unknown; choose 'deployable' or 'paper'.")
    kind: Reconstruction = reconstruction or ("published" if track == "paper" else "block")
    if kind not in get_args(Reconstruction):
        raise SettingError(
            f"The reconstruction {kind!r} is unknown; choose one of {', '.join(get_args(Reconstruction))}."
        )
    check_safe_int8(safe_int8, track)
    if ranges not in get_args(RangeRule):
        raise SettingError(f"The ranges {ranges!r} are unknown; choose one of {', '.join(get_args(RangeRule))}.")
    if not towers or any(tower not in TOWERS for tower in towers):
        raise SettingError(f"The towers {list(towers)!r} are not among {list(TOWERS)}; choose one or both of these.")
    exceptions = default_overrides(clip, track) | {p: Scheme.parse(own) for p, own in (overrides or {}).items()}
    settings = PAPER if track == "paper" else ReconstructionConfig()
    if iterations is not None:
        if iterations < 1:
            raise SettingError(f"iterations is {iterations}, but at least 1 is needed; or use reconstruction='none'.")
        settings = settings.shortened(iterations)
    if batch_size is not None:
        if batch_size < 1:
            raise SettingError(f"batch_size is {batch_size}, but at least 1 is needed.")
        settings = replace(settings, batch_size=batch_size)
    if importance is not None:
        if importance not in get_args(Importance):
            raise SettingError(
                f"The importance {importance!r} is unknown; choose one of {', '.join(get_args(Importance))}."
            )
        settings = replace(settings, importance=importance)
    if target_bits is not None and target_bytes is not None:
        raise SettingError(f"The targets {target_bits} bits and {target_bytes} bytes exclude each other; give one.")

    if on_gpu := clip.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(clip.device)
    float_clip = working_copy(clip, track)
    texts = generic_prompts(PROMPTS, seed=0) if prompts is None else prompts
    soften = soften and track == "deployable"
    pixels, tokens = calibration_inputs(float_clip, calibration, texts, soften)
    _check_weights(float_clip, towers)
    _warn_of_few(len(pixels), len(tokens), towers)
    plan = make_plan(float_clip, scheme, track, exceptions, tuple(towers), safe_int8)
    if track == "deployable":
        prepare(float_clip, pixels, tokens, towers, plan)
    quantized = with_ranges(float_clip, plan, track, pixels, tokens, towers, ranges)
    if target_bits is not None or target_bytes is not None:
        probe = Probe(float_clip, quantized, pixels, tokens[: len(NOUNS)])
        exceptions |= mixed_overrides(probe, scheme, exceptions, target_bits, target_bytes, progress)
        plan = make_plan(float_clip, scheme, track, exceptions, tuple(towers), safe_int8)
        quantized = with_ranges(float_clip, plan, track, pixels, tokens, towers, ranges)
    recipe: dict[str, Any] = {
        "d4c": __version__,
        "torch": torch.__version__,
        "scheme": str(scheme),
        "track": track,
        "ranges": ranges,
        "safe_int8": safe_int8,
        "soften": soften,
        "towers": list(towers),
        "overrides": {p: str(own) for p, own in exceptions.items() if any(re.fullmatch(p, name) for name in plan)},
        "target": {"bits": target_bits, "bytes": target_bytes},
        "reconstruction": {"kind": kind, **({} if kind in ("none", "gptq") else asdict(settings))},
        "seed": seed,
        "images": len(pixels),
        "prompts": len(tokens),
        "model": {"name": clip.name, "sha256": model_hash(clip)},
        "calibration": calibration.provenance,
        "device": str(clip.device),
    }
    if kind != "none":
        key = {**recipe, "pixels": tensor_hash(pixels), "tokens": tensor_hash(tokens)}
        unfinished = None if checkpoint is None else Checkpoint(Path(checkpoint), key)
        _reconstruct(quantized, float_clip, pixels, tokens, towers, kind, settings, seed, progress, unfinished)
    for module in quantized.modules():
        if isinstance(module, QuantizedLayer):
            module.freeze()
    quantized.text.trim = True
    recipe["seconds"] = round(time.perf_counter() - started, 3)
    recipe["peak_memory_bytes"] = torch.cuda.max_memory_allocated(clip.device) if on_gpu else None
    return QuantizedCLIP(quantized, plan, recipe)


def check_safe_int8(safe_int8: bool, track: str) -> None:
    """Raise SettingError for `safe_int8` on track "paper", whose weights no integer kernel reads."""
    if safe_int8 and track == "paper":
        raise SettingError("safe_int8 is for integer kernels, which compute nothing of track 'paper'; leave one out.")


def _check_weights(clip: CLIP, towers: Sequence[str]) -> None:
    for name, tensor in clip.state_dict().items():
        if name.split(".")[0] in towers and not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"{name} of {clip.name!r} contains NaN or infinite values; quantize an undamaged checkpoint."
            )


def _warn_of_few(images: int, prompts: int, towers: Sequence[str]) -> None:
    """What was seen sets every range, and what others need beyond is cut off."""
    if "image" in towers and images == 1:
        warnings.warn("The image ranges rest on a single calibration image; give some dozens.", stacklevel=3)
    if "text" in towers and prompts < FEW_PROMPTS:
        warnings.warn(f"The text ranges rest on few prompts ({prompts}); give at least {FEW_PROMPTS}.", stacklevel=3)


def _reconstruct(
    quantized: CLIP,
    float_clip: CLIP,
    pixels: torch.Tensor,
    tokens: torch.Tensor,
    towers: Sequence[str],
    kind: Reconstruction,
    settings: ReconstructionConfig,
    seed: int,
    progress: Progress | None,
    checkpoint: Checkpoint | None,
) -> None:
    def unit_of(stage: Stage) -> UnitKind:
        if kind == "published":
            return stage.published_unit
        return kind if kind in ("layer", "gptq") else "block"

    sizes = {tower: len(float_clip.tower(tower).stages()) for tower in TOWERS}
    total, before = sum(sizes[tower] for tower in towers), 0
    for tower in towers:
        inputs = pixels if tower == "image" else tokens

        def report(done: int, _: int, before: int = before) -> None:
            if progress:
                progress(before + done, total)

        reconstruct(quantized, float_clip, tower, inputs, unit_of, settings, seed, report, checkpoint)
        before += sizes[tower]
