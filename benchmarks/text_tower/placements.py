"""Quantizers of a text tower in published places, and in ours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import d4c
from benchmarks.text_tower.spiked import outputs_of
from d4c.models.clip import CLIP
from d4c.quantization.calibrate import calibrate
from d4c.quantization.config import QuantizeConfig, RangeRule
from d4c.quantization.formats.scheme import Scheme, Track
from d4c.quantization.placement import convert, default_overrides, make_plan
from d4c.quantization.preparation import working_copy
from d4c.quantization.symmetries.rescale import rescale
from d4c.quantization.symmetries.shift import shift

PLACEMENTS = (
    "per tensor, min-max",
    "RepQ-ViT, min-max",
    "RepQ-ViT, MSE",
    "D4C, min-max",
    "D4C, MSE",
    "ours",
)
"""Where quantizers sit and how ranges follow. Per tensor: what generic tools do, one scale for each input. RepQ-ViT:
the same after the channel ranges of LayerNorms were folded into weights, at full strength (arXiv 2212.08254; with
uniform codes for the softmax). D4C: a scale per channel after LayerNorms and before the second MLP layer, which no
integer kernel computes. These three count all 77 positions. Ours: the default track."""


def quantize_text_at(clip: CLIP, placement: str, scheme: str, prompts: Sequence[str]) -> CLIP:
    """A CLIP with a quantized text tower, ranges only.

    Args:
        clip: The float model.
        placement: One of `PLACEMENTS`.
        scheme: Bits such as "W8A8".
        prompts: Calibration prompts; D4C's placement takes 32 of them, as published, the others all.
    """
    place, _, ranges = placement.partition(", ")
    rule: RangeRule = "minmax" if ranges == "min-max" else "mse"
    if place in ("per tensor", "RepQ-ViT"):
        return _per_tensor(clip, scheme, rule, prompts, fold=place == "RepQ-ViT")
    image = d4c.synthesize(clip, "leaves", images=1, seed=0)  # only has the right shape, no tower reads it
    track: Track = "paper" if place == "D4C" else "deployable"
    config = QuantizeConfig(scheme, track, rule, reconstruction="none", towers=("text",))
    return d4c.quantize(clip, image, config, prompts=prompts, progress=None)


def _per_tensor(clip: CLIP, scheme: str, rule: RangeRule, prompts: Sequence[str], fold: bool) -> CLIP:
    copied = working_copy(clip, "paper")
    tokens = copied.tokenize(prompts).to(clip.device)
    if fold:
        _fold(copied, tokens)
    overrides = default_overrides(copied, "deployable")
    plan = make_plan(copied, Scheme.parse(scheme), "deployable", overrides, ("text",))
    convert(copied, plan, "deployable")
    calibrate(copied, torch.empty(0), tokens, ("text",), deployable=False, rule=rule)
    # Attention is causal: positions after end-of-text have had their part in the ranges and change nothing else.
    copied.text.trim = True
    return copied


@torch.no_grad()
def _fold(clip: CLIP, tokens: Tensor) -> None:
    """Give all channels after each LayerNorm of a block the mean of their widths, and one middle."""
    text = clip.text
    axes = [axis for axis in text.channel_axes() if axis.name.endswith(("norm1", "norm2"))]
    norms = [text.get_submodule(axis.writers[0]) for axis in axes]
    for axis, rows in zip(axes, list(outputs_of(text, tokens, norms, first=0)), strict=True):
        low, high = rows.aminmax(dim=0)
        width, middle = high - low, (high + low) / 2
        shift(text, axis, middle.mean() - middle)
        rescale(text, axis, width.mean() / width)
