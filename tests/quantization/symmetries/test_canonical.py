"""A tower ends in one form, whichever of the equal forms it came in."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import d4c
from d4c.models.clip import CLIP
from d4c.models.config import TOWERS
from d4c.models.tower_config import ViTConfig
from d4c.quantization.calibrate import prepare
from d4c.quantization.formats.scheme import Scheme
from d4c.quantization.placement import Plan, default_overrides, make_plan
from d4c.quantization.symmetries.uneven import uneven


def plan_of(clip: CLIP, scheme: str) -> Plan:
    return make_plan(clip, Scheme.parse(scheme), "deployable", default_overrides(clip, "deployable"))


def prepared(clip: CLIP, pixels: Tensor, tokens: Tensor, scheme: str) -> CLIP:
    clip = copy.deepcopy(clip)
    prepare(clip, pixels, tokens, TOWERS, plan_of(clip, scheme))
    return clip


@pytest.fixture(scope="module")
def pixels(demo_vit: CLIP) -> Tensor:
    return d4c.synthesize(demo_vit, "leaves", images=8).pixels


def relative_error(after: Tensor, before: Tensor) -> float:
    return float((after - before).norm() / before.norm())


@torch.no_grad()
@pytest.mark.parametrize("scheme", ["W8A8", "W2A4"])
@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_both_towers_compute_the_same(
    short: CLIP, prompts: list[str], pixels: Tensor, scheme: str, sigma: float
) -> None:
    clip, tokens = uneven(short, sigma, 0), short.tokenize(prompts)
    rewritten = prepared(clip, pixels, tokens, scheme)
    assert relative_error(rewritten.encode_image(pixels), short.encode_image(pixels)) < 1e-5
    assert relative_error(rewritten.encode_text(tokens), short.encode_text(tokens)) < 1e-5


@torch.no_grad()
def test_pruned_heads_change_nothing(demo_vit: CLIP, prompts: list[str], pixels: Tensor) -> None:
    clip, tokens = copy.deepcopy(demo_vit), demo_vit.tokenize(prompts)
    assert isinstance(clip.config.image, ViTConfig)
    for block, parts in zip(clip.image.blocks, (["q"], ["k"], ["v"], ["q", "k", "v", "out"]), strict=False):
        for part in parts:
            for name, tensor in block.get_submodule(f"attn.{part}").named_parameters():
                width = len(tensor) // clip.config.image.heads
                if part != "out":
                    tensor[:width] = 0
                elif name == "weight":
                    tensor[:, :width] = 0
    rewritten = prepared(clip, pixels, tokens, "W4A8")
    assert relative_error(rewritten.encode_image(pixels), clip.encode_image(pixels)) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("scheme", ["W8A8", "W4A4"])
def test_weights_are_the_same_for_every_form(short: CLIP, prompts: list[str], pixels: Tensor, scheme: str) -> None:
    """Except in a basis that a few images leave open: that of the attention pool, which has one query per image."""
    tokens = short.tokenize(prompts)
    even, other = (prepared(clip, pixels, tokens, scheme).state_dict() for clip in (short, uneven(short, 0.7, 1)))
    errors = {
        name: relative_error(other[name], tensor)
        for name, tensor in even.items()
        if tensor.is_floating_point() and not name.startswith("image.pool") and bool(tensor.any())
    }
    assert len(errors) > 50
    assert {name: error for name, error in errors.items() if error > 0.001} == {}


@torch.no_grad()
@pytest.mark.parametrize("scheme", [pytest.param("W8A8", marks=pytest.mark.slow), "W4A4"])
def test_quantization_loses_the_same_on_every_form(short: CLIP, pixels: Tensor, scheme: str) -> None:
    """Ranges only; the uneven forms lost up to ten times as much before there was a canonical form."""
    calibration = d4c.synthesize(short, "leaves", images=16, seed=1)
    losses = []
    for clip in (short, uneven(short, 1.0, 2)):
        quantized = d4c.quantize(clip, calibration, scheme, reconstruction="none", towers=("image",))
        cosines = torch.cosine_similarity(quantized.encode_image(pixels), short.encode_image(pixels))
        losses.append(float(1 - cosines.mean()))
    assert losses[1] < 1.5 * losses[0]
