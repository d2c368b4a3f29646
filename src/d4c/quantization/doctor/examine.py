"""`examine`: what form a checkpoint is in, and what quantizing it will meet; no data needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from d4c.calibration.natural import dead_leaves
from d4c.calibration.prompts import generic_prompts
from d4c.calibration.softening import softened
from d4c.models.clip import CLIP
from d4c.progress import WHOLE, Progress, Report, parts, reporting
from d4c.quantization.config import QuantizeConfig
from d4c.quantization.doctor.advice import findings_of, verdict_of
from d4c.quantization.doctor.diagnosis import AxisSpread, Diagnosis, TowerDiagnosis
from d4c.quantization.doctor.layer_inputs import loud_inputs, outlook, silent_inputs, watch_layers
from d4c.quantization.doctor.spread import channel_count, dead_channels, spread
from d4c.quantization.doctor.stream import CLASS, loud_in_stream
from d4c.quantization.formats.scheme import Scheme
from d4c.quantization.loud_channels import with_loud_channels
from d4c.quantization.placement import Plan, default_overrides, make_plan
from d4c.quantization.preparation import check_embeddings, working_copy
from d4c.quantization.symmetries.batch_norm import fold_batchnorms
from d4c.quantization.symmetries.canonical import canonicalize
from d4c.quantization.symmetries.observed import observe

IMAGES, PROMPTS = 8, 32


@torch.no_grad()
def examine(
    clip: CLIP,
    scheme: str | Scheme = QuantizeConfig.scheme,
    *,
    wide_class_token: bool = QuantizeConfig.wide_class_token,
    progress: Report = "auto",
) -> Diagnosis:
    """Find out what form a float CLIP is in, and what quantizing it on the deployable track will meet.

    Its towers run on 8 pictures of dead leaves and 32 generic prompts.

    Args:
        clip: The float CLIP, which is not changed.
        scheme: Bits of weights and activations, such as "W4A8".
        wide_class_token: Whether the class token gets a range of its own below 8 bits.
        progress: Called with (thousandths done, 1000); "auto" shows a bar on a terminal, None shows nothing.

    Returns:
        What was measured in the towers that there are, and what it means.

    Raises:
        SettingError: The scheme is not valid, or the CLIP is quantized.
        CheckpointError: The embeddings of a tower are zero or the same for different inputs.
    """
    scheme = Scheme.parse(scheme)
    copied = working_copy(clip, "deployable")
    overrides = default_overrides(copied, "deployable")
    plan = make_plan(copied, scheme, "deployable", overrides, wide_class_token=wide_class_token)
    inputs = {name: INPUTS[name](clip).to(clip.device) for name in clip.towers}
    check_embeddings(clip, inputs)
    with reporting(progress, f"examine for {scheme}") as report:
        report(0, WHOLE)
        towers = tuple(
            _examine_tower(copied, name, inputs[name], plan, progress_of_tower)
            for name, progress_of_tower in zip(inputs, parts(report, [1] * len(inputs)), strict=True)
        )
        report(WHOLE, WHOLE)
    findings = findings_of(towers, scheme)
    return Diagnosis(clip.name, str(scheme), towers, findings, verdict_of(findings, scheme))


def _pixels(clip: CLIP) -> Tensor:
    pictures = dead_leaves(IMAGES, clip.image_size, torch.Generator().manual_seed(0)).to(clip.device)
    return softened(clip.normalize(pictures))


def _tokens(clip: CLIP) -> Tensor:
    return clip.tokenize(list(generic_prompts(PROMPTS)))


INPUTS: dict[str, Callable[[CLIP], Tensor]] = {"image": _pixels, "text": _tokens}
"""What each tower runs on."""


def _examine_tower(clip: CLIP, name: str, inputs: Tensor, plan: Plan, progress: Progress) -> TowerDiagnosis:
    """Examine a tower and bring it into its best form in place."""
    tower, steps = clip.tower(name), 5
    fold_batchnorms(tower)
    axes = tower.channel_axes()
    seen_before = observe(tower, inputs, axes)
    progress(1, steps)
    dead = [dead_channels(tower, axis, seen_before) for axis in axes]
    loud_tokens, in_stream = loud_in_stream(tower, name, inputs)
    progress(2, steps)
    canonicalize(tower, name, inputs, plan)
    progress(3, steps)
    seen_after = observe(tower, inputs, axes)
    progress(4, steps)
    empty = inputs[:0]
    pixels, tokens = (inputs, empty) if name == "image" else (empty, inputs)
    tower.fold_constants(inputs)
    plan = with_loud_channels(clip, plan, pixels, tokens, (name,))
    watched = watch_layers(tower, name, inputs, plan)
    apart = any(plan[layer].class_token for layer in watched)
    layers = [outlook(layer, seen, plan[layer]) for layer, seen in watched.items()]
    return TowerDiagnosis(
        name=name,
        samples=len(inputs),
        axes=tuple(
            AxisSpread(
                name=f"{name}.{axis.name}",
                channels=channel_count(axis, seen_before),
                before=spread(axis, seen_before),
                after=spread(axis, seen_after),
                dead=dead_of_axis,
            )
            for axis, dead_of_axis in zip(axes, dead, strict=True)
        ),
        tokens=tuple(replace(token, apart=token.token == CLASS and apart) for token in loud_tokens),
        channels=(*in_stream, *loud_inputs(watched, plan)),
        silent=silent_inputs(watched, {f"{name}.{reader}" for axis in axes for reader in axis.readers}),
        layers=tuple(sorted(layers, key=lambda layer: layer.least_db)),
    )
