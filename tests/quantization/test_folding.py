"""Folding changes the weights and not the outputs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import d4c
from d4c.models.clip import CLIP
from d4c.models.layers import Block
from d4c.models.resnet import ModifiedResNet
from d4c.quantization.calibration import prepare
from d4c.quantization.folding import MAX_RATIO, fold_batchnorm, fold_batchnorms, fold_channel_ranges, norm_readers


def assert_equal_outputs(after: Tensor, before: Tensor) -> None:
    assert float((after - before).norm() / before.norm()) < 1e-5


@pytest.fixture(scope="module")
def pixels(demo_vit: CLIP) -> Tensor:
    return d4c.synthesize(demo_vit, "leaves", images=4).pixels


@torch.no_grad()
def test_a_resnet_without_batchnorm_is_the_same(demo_rn: CLIP, pixels: Tensor) -> None:
    tower = copy.deepcopy(demo_rn.image)
    assert isinstance(tower, ModifiedResNet)
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
def test_both_towers_are_the_same_with_folded_channel_ranges(demo: CLIP, prompts: list[str], pixels: Tensor) -> None:
    folded = copy.deepcopy(demo)
    tokens = demo.tokenize(prompts)
    prepare(folded, pixels, tokens, ("image", "text"))
    assert_equal_outputs(folded.encode_image(pixels), demo.encode_image(pixels))
    assert_equal_outputs(folded.encode_text(tokens), demo.encode_text(tokens))
    norm = "text.blocks.0.norm1.weight"
    assert not torch.equal(folded.get_parameter(norm), demo.get_parameter(norm))


@torch.no_grad()
def test_every_channel_has_the_same_range_behind_the_fold(demo_vit: CLIP, prompts: list[str], pixels: Tensor) -> None:
    folded = copy.deepcopy(demo_vit)
    prepare(folded, pixels, demo_vit.tokenize(prompts), ("image",))
    block, original = folded.image.blocks[2], demo_vit.image.blocks[2]
    assert isinstance(block, Block)
    assert isinstance(original, Block)
    seen: dict[str, Tensor] = {}
    for name, model, module in (("before", demo_vit, original.norm2), ("after", folded, block.norm2)):
        handle = module.register_forward_hook(lambda _, __, y, name=name: seen.update({name: y.flatten(0, 1)}))
        model.encode_image(pixels)
        handle.remove()
    low, high = seen["before"].aminmax(dim=0)
    ratio = (high - low) / (high - low).mean()
    free = (ratio > 1 / MAX_RATIO) & (ratio < MAX_RATIO)
    assert int(free.sum()) > 200
    after_low, after_high = (edge[free] for edge in seen["after"].aminmax(dim=0))
    for edge in (after_low, after_high):
        assert torch.allclose(edge, edge.mean().expand_as(edge), rtol=1e-3, atol=1e-3)


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


def test_the_readers_of_a_norm_are_all_that_read_it(demo_vit: CLIP) -> None:
    """Scaling a norm's output scales nothing else: folding by hand into the readers alone restores the output."""
    block = copy.deepcopy(demo_vit.text.blocks[0])
    assert isinstance(block, Block)
    x = torch.randn(2, 5, 192)
    before = block(x, causal=True)
    for norm, readers in norm_readers(block):
        norm.weight.mul_(3)
        norm.bias.mul_(3)
        for reader in readers:
            reader.weight.div_(3)
    assert_equal_outputs(block(x, causal=True), before)
