"""Folding changes the weights and not the outputs."""

from __future__ import annotations

import copy
from typing import cast

import pytest
import torch
from torch import Tensor, nn

import d4c
from d4c.models.clip import CLIP
from d4c.models.tower import Tower
from d4c.quantization.symmetries.folding import (
    MAX_RATIO,
    fold_batchnorm,
    fold_batchnorms,
    fold_channel_ranges,
    norm_axes,
)


def assert_equal_outputs(after: Tensor, before: Tensor) -> None:
    assert float((after - before).norm() / before.norm()) < 1e-5


def foldable(tower: Tower) -> list[tuple[nn.LayerNorm, list[nn.Linear]]]:
    """LayerNorms inside of blocks with the linear layers that read them."""
    axes = [axis for axis in norm_axes(tower) if axis.name.startswith("blocks.")]
    return [
        (
            cast(nn.LayerNorm, tower.get_submodule(axis.writers[0])),
            [cast(nn.Linear, tower.get_submodule(reader)) for reader in axis.readers],
        )
        for axis in axes
    ]


@pytest.fixture(scope="module")
def pixels(demo_vit: CLIP) -> Tensor:
    return d4c.synthesize(demo_vit, "leaves", images=4).pixels


@torch.no_grad()
def test_a_resnet_without_batchnorm_is_the_same(demo_rn: CLIP, pixels: Tensor) -> None:
    tower = copy.deepcopy(demo_rn.image)
    fold_batchnorms(tower)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in tower.modules())
    assert_equal_outputs(tower(pixels), demo_rn.image(pixels))


@torch.no_grad()
def test_one_folded_convolution_is_convolution_and_batchnorm() -> None:
    conv, norm = nn.Conv2d(3, 5, 3, 2, 1, bias=False), nn.BatchNorm2d(5)
    for value in (norm.weight, norm.bias, norm.running_mean):
        assert value is not None
        value.normal_()
    norm.running_var = torch.rand(5) + 0.1
    before = conv.weight.clone()
    x = torch.randn(2, 3, 7, 7)
    assert_equal_outputs(fold_batchnorm(conv, norm.eval())(x), norm(conv(x)))
    assert torch.equal(conv.weight, before)


@torch.no_grad()
@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_both_towers_are_the_same_at_any_strength(
    demo: CLIP, prompts: list[str], pixels: Tensor, strength: float
) -> None:
    folded = copy.deepcopy(demo)
    tokens = demo.tokenize(prompts)
    for norm, readers in [*foldable(folded.image), *foldable(folded.text)]:
        low = torch.randn(len(norm.weight))
        fold_channel_ranges(norm, readers, low, low + torch.rand_like(low), strength)
    assert_equal_outputs(folded.encode_image(pixels), demo.encode_image(pixels))
    assert_equal_outputs(folded.encode_text(tokens), demo.encode_text(tokens))
    layer = "text.blocks.0.attn.q"
    same = torch.equal(folded.get_parameter(f"{layer}.weight"), demo.get_parameter(f"{layer}.weight"))
    assert same is (strength == 0)
    assert not torch.equal(folded.get_parameter(f"{layer}.bias"), demo.get_parameter(f"{layer}.bias"))


@torch.no_grad()
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_the_fold_shares_the_middle_of_the_ranges_and_as_much_of_their_width_as_asked(
    demo_vit: CLIP, pixels: Tensor, strength: float
) -> None:
    x = demo_vit.image.embed(pixels)
    norm, readers = foldable(copy.deepcopy(demo_vit.image))[4]
    low, high = norm(x).flatten(0, 1).aminmax(dim=0)
    fold_channel_ranges(norm, readers, low, high, strength)
    after_low, after_high = norm(x).flatten(0, 1).aminmax(dim=0)
    ratio = (high - low) / (high - low).mean()
    free = (ratio > 1 / MAX_RATIO) & (ratio < MAX_RATIO)
    assert int(free.sum()) > 200
    expected = (high - low) / ratio**strength
    assert torch.allclose((after_high - after_low)[free], expected[free], rtol=1e-3)
    middle = (after_high + after_low) / 2
    assert torch.allclose(middle, middle.mean().expand_as(middle), atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("gain", ["dead channel", "channel 1000 times wider", "all dead"])
def test_unusual_channels_change_no_output(gain: str) -> None:
    norm = nn.LayerNorm(16)
    norm.bias.normal_()
    if gain == "all dead":
        norm.weight.zero_()
    else:
        norm.weight[3] = 0 if gain == "dead channel" else 1000
    readers = [nn.Linear(16, 8), nn.Linear(16, 4)]
    x = torch.randn(50, 16)
    before = [reader(norm(x)) for reader in readers]
    low, high = norm(x).aminmax(dim=0)
    fold_channel_ranges(norm, readers, low, high)
    for reader, expected in zip(readers, before, strict=True):
        assert_equal_outputs(reader(norm(x)), expected)
    low, high = norm(x).aminmax(dim=0)
    usual = torch.arange(16) != 3
    if gain == "dead channel":
        # Its range is a point, put in the middle of the others'.
        assert float(low[3]) == pytest.approx(float(high[3]))
        assert float(low[3]) == pytest.approx(float((low[usual] + high[usual]).mean() / 2), rel=1e-3)
