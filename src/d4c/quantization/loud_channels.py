"""Finds loud channels: the few input channels of a layer that fire so much harder than the rest that they spoil it.

In a trained transformer a few hidden neurons reach a hundred times the others for some tokens ("massive activations",
arXiv 2402.17762). The scale that covers them rounds all other channels to nothing. Since an activation lies before
them, no factor can move into the layer that writes them (`Part.rigid_inputs`). So they get a scale of their own, always
at 8 bits, and the layer becomes the sum of two integer products. Weights stay as they are.

They are chosen at 8 bits, whatever the scheme. With fewer bits a range clips them, and the error of all that is rounded
hides what that does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d4c.models.clip import CLIP
from d4c.quantization.config import QuantizeConfig, RangeRule
from d4c.quantization.formats.affine import fake_quantize
from d4c.quantization.layers.activation_quantizer import WIDE_FORMAT
from d4c.quantization.placement import Plan
from d4c.quantization.ranges.observer import Observer
from d4c.quantization.stages import record_input, run_stage, stages

MOST = 8
"""The largest number of loud channels of a layer."""
PEAK = 0.5
"""All quiet channels peak below this share of the largest peak, since the other scale would gain little otherwise."""
CLEAR = 0.125
"""A layer gets loud channels only where they lower the error of its output to at most this share."""
IMAGES, PROMPTS = 32, 128
"""How many samples loud channels are chosen on."""


@torch.no_grad()
def with_loud_channels(
    clip: CLIP,
    plan: Plan,
    pixels: Tensor,
    tokens: Tensor,
    towers: Sequence[str],
    rule: RangeRule = QuantizeConfig.ranges,
) -> Plan:
    """Name the loud channels of all layers that have some.

    Args:
        clip: The float CLIP, as it will be quantized.
        plan: Formats of all layers.
        pixels: Calibration pixels [N, 3, S, S], of which 32 at most are used.
        tokens: Calibration tokens [P, L], of which 128 at most are used.
        towers: Which towers to search.
        rule: How the range of an activation follows from its values.

    Returns:
        The plan with loud channels.
    """
    chosen = dict(plan)
    for tower, inputs, limit in (("image", pixels, IMAGES), ("text", tokens, PROMPTS)):
        layers = {f"{tower}.{layer}" for layer in clip.tower(tower).rigid_inputs()}.intersection(plan)
        if tower not in towers or not layers or not len(inputs):
            continue
        few = clip.tower(tower).crop(inputs[:: -(-len(inputs) // limit)])
        live, state = clip.tower(tower).live(few), few
        for stage in stages(clip, tower):
            for name in filter(stage.owns, sorted(layers)):
                layer = clip.get_submodule(name)
                assert isinstance(layer, nn.Linear)
                x = record_input(stage, clip, layer, state, few)
                rows = x.flatten(0, -2) if live is None else x[live]
                loud = loud_channels(rows, layer.weight, name, rule)
                chosen[name] = replace(plan[name], loud_channels=loud)
            state = run_stage(stage, clip, state, few)
    return chosen


def loud_channels(x: Tensor, weight: Tensor, name: str, rule: RangeRule = QuantizeConfig.ranges) -> tuple[int, ...]:
    """Choose the loud channels of one layer by the error of its output, with its input at 8 bits and float weights.

    Args:
        x: Inputs [R, C].
        weight: Weight [O, C].
        name: Name of the layer, for errors.
        rule: How the range of an activation follows from its values.

    Returns:
        Indices in rising order of as few channels as lower the error clearly; none where up to `MOST` do not, or where
        an input is not finite, which calibration reports.
    """
    if not bool(x.isfinite().all()):
        return ()
    peaks, order = x.abs().amax(0).sort(descending=True)
    counts = [count for count in range(1, min(MOST + 1, len(order))) if peaks[count] < PEAK * peaks[0]]
    if not counts:
        return ()

    def error(count: int) -> float:
        """Squared error with so many loud channels."""
        parts = [order[:count], order[count:]] if count else [order]
        y = torch.stack([F.linear(_rounding_error(x[:, part], name, rule), weight[:, part]) for part in parts])
        return float(y.sum(0).square().sum())

    enough = CLEAR * error(0)
    count = next((count for count in counts if error(count) < enough), 0)
    return tuple(sorted(order[:count].tolist()))


def _rounding_error(x: Tensor, name: str, rule: RangeRule) -> Tensor:
    """Values at 8 bits, with their range chosen as in calibration, less themselves."""
    args = WIDE_FORMAT
    observer = Observer(args, name, rule)
    observer.add(x)
    scale, zero_point = observer.finish()
    return fake_quantize(x, scale, zero_point, args.qmin, args.qmax) - x
