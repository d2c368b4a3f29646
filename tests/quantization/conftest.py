"""Small models and calibration data that the tests of quantization share."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import d4c
from d4c.calibration.images import CalibrationSet
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.layers import MLP
from d4c.models.tower_config import ResNetConfig, TextConfig, ViTConfig
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.quantized import QuantizedCLIP
from d4c.quantization.ranges.observer import Observer

TEXT = TextConfig(width=32, layers=2, heads=2, mlp_width=64)


def random_clip(config: CLIPConfig) -> CLIP:
    """A CLIP of a new shape, its norms moved off the identity."""
    torch.manual_seed(1)
    clip = CLIP(config, "tiny").eval().requires_grad_(False)
    for module in clip.modules():
        if isinstance(module, torch.nn.LayerNorm | torch.nn.BatchNorm2d):
            module.weight.uniform_(0.5, 2)
            module.bias.normal_(0, 0.3)
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return clip


def choose_ranges(quantizer: ActivationQuantizer, x: Tensor) -> ActivationQuantizer:
    parts = [part for part in quantizer.modules() if isinstance(part, ActivationQuantizer)]
    for part in parts:
        part.observer = Observer(part.args, "test")
    assert torch.equal(quantizer(x), x)
    for part in parts:
        assert part.observer is not None
        part.set_range(*part.observer.finish())
        part.observer = None
    return quantizer


@pytest.fixture(scope="session")
def observed() -> Callable[[ActivationQuantizer, Tensor], ActivationQuantizer]:
    """Gives a quantizer ranges, and its parts theirs, which are chosen on values."""
    return choose_ranges


@pytest.fixture(scope="session")
def tiny_vit() -> CLIP:
    """A vision transformer of two narrow blocks, for what would take long on an embedded model."""
    return random_clip(CLIPConfig(16, ViTConfig(16, 8, 32, 2, 2, 64), TEXT))


@pytest.fixture(scope="session")
def loud_tiny_vit(tiny_vit: CLIP) -> CLIP:
    """The small vision transformer with a hidden neuron, 7 of image block 1, that is always at 60."""
    clip = copy.deepcopy(tiny_vit)
    mlp = clip.get_submodule("image.blocks.1.mlp")
    assert isinstance(mlp, MLP)
    mlp.fc1.bias[7] = 60
    mlp.fc2.weight[:, 7] *= 0.02
    return clip


@pytest.fixture(scope="session")
def tiny_rn() -> CLIP:
    """A ResNet of four narrow bottlenecks."""
    return random_clip(CLIPConfig(16, ResNetConfig(64, 8, (1, 1, 1, 1), 4), TEXT))


@pytest.fixture(scope="session")
def prompts() -> list[str]:
    """Prompts of different lengths."""
    return ["a photo of a cat.", "tree", "two dogs in the snow", "a very small drawing of an old red bicycle"]


def noise(clip: CLIP, images: int = 8) -> CalibrationSet:
    """Calibration images of pure noise."""
    return d4c.synthesize(clip, "noise", images=images)


@pytest.fixture(scope="session")
def w4a8(demo: CLIP, prompts: list[str]) -> QuantizedCLIP:
    """Each embedded model at W4A8 with calibrated ranges only; tests must not change it."""
    return d4c.quantize(demo, noise(demo), "W4A8", reconstruction="none", prompts=prompts)
