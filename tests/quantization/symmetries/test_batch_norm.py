"""A convolution takes in the BatchNorm that follows it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import d4c
from d4c.models.clip import CLIP
from d4c.quantization.symmetries.batch_norm import fold_batchnorm, fold_batchnorms


def assert_equal_outputs(after: Tensor, before: Tensor) -> None:
    assert float((after - before).norm() / before.norm()) < 1e-5


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
@pytest.mark.parametrize("biased", [False, True])
def test_one_folded_convolution_is_convolution_and_batchnorm(biased: bool) -> None:
    conv, norm = nn.Conv2d(3, 5, 3, 2, 1, bias=biased), nn.BatchNorm2d(5)
    for value in (norm.weight, norm.bias, norm.running_mean):
        assert value is not None
        value.normal_()
    norm.running_var = torch.rand(5) + 0.1
    before = conv.weight.clone()
    x = torch.randn(2, 3, 7, 7)
    assert_equal_outputs(fold_batchnorm(conv, norm.eval())(x), norm(conv(x)))
    assert torch.equal(conv.weight, before)
