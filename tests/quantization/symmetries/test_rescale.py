"""Every channel axis that a tower lists is one: factors go in, the function stays."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import d4c
from d4c.models.anatomy import ChannelAxis
from d4c.models.clip import CLIP
from d4c.models.config import TOWERS
from d4c.quantization.symmetries.batch_norm import fold_batchnorms
from d4c.quantization.symmetries.rescale import rescale
from d4c.quantization.symmetries.uneven import axis_channels as channels

InputsOf = Callable[[CLIP, str], Tensor]
MODELS = {name: d4c.load(name) for name in ("demo-vit", "demo-rn")}
AXES = [
    (model, tower, axis)
    for model, clip in MODELS.items()
    for tower in TOWERS
    for axis in clip.tower(tower).channel_axes()
]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


@torch.no_grad()
@pytest.mark.parametrize(("model", "name", "axis"), AXES, ids=[f"{m}-{t}.{a.name}" for m, t, a in AXES])
def test_factors_over_six_orders_of_magnitude_change_no_output(
    inputs_of: InputsOf, model: str, name: str, axis: ChannelAxis
) -> None:
    tower = copy.deepcopy(MODELS[model].tower(name)).double()
    inputs = inputs_of(MODELS[model], name)
    expected = tower(inputs)
    factors = 10 ** (6 * torch.rand(channels(tower, axis), dtype=torch.float64) - 3)
    if not axis.positive:
        factors *= torch.randn(len(factors)).sign()
    before = copy.deepcopy(tower.state_dict())
    rescale(tower, axis, factors)
    assert relative_error(tower(inputs), expected) < 1e-9
    changed = {key for key, value in tower.state_dict().items() if not torch.equal(value, before[key])}
    assert len(changed) >= len(axis.writers) + len(axis.readers) + len(axis.partners)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    sigma=st.floats(0.1, 3),
    model=st.sampled_from(sorted(MODELS)),
    dead=st.floats(0, 0.3),
    folded=st.booleans(),
)
def test_all_axes_at_once_and_with_dead_channels(
    inputs_of: InputsOf, seed: int, sigma: float, model: str, dead: float, folded: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        tower = copy.deepcopy(MODELS[model].image).double()
        if folded:
            fold_batchnorms(tower)
        norms = [module for module in tower.modules() if isinstance(module, nn.LayerNorm | nn.BatchNorm2d)]
        for norm in norms:
            gone = torch.rand(len(norm.weight), generator=generator) < dead
            norm.weight[gone], norm.bias[gone] = 0, 0
        inputs = inputs_of(MODELS[model], "image")
        expected = tower(inputs)
        for axis in tower.channel_axes():
            rescale(tower, axis, (sigma * torch.randn(channels(tower, axis), generator=generator)).exp().double())
        assert relative_error(tower(inputs), expected) < 1e-8


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_factors_that_do_not_pass_are_refused(demo_rn: CLIP, factor: float) -> None:
    tower = copy.deepcopy(demo_rn.image)
    axis = next(axis for axis in tower.channel_axes() if axis.positive)
    factors = torch.ones(channels(tower, axis))
    factors[0] = factor
    with pytest.raises(ValueError, match="finite and positive"):
        rescale(tower, axis, factors)


def test_every_layer_is_written_or_read_by_some_axis(demo: CLIP) -> None:
    """What no axis mentions: the first layer, the second MLP layer, which follows a curve, and the embedding."""
    for name in TOWERS:
        tower = demo.tower(name)
        axes = tower.channel_axes()
        mentioned = {layer for axis in axes for layer in (*axis.writers, *axis.readers, *axis.partners)}
        layers = {key for key, module in tower.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
        rest = {key for key in layers - mentioned if not key.endswith("mlp.fc2")}
        assert rest <= {"patch_embed"}
