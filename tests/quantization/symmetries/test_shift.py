"""A constant per channel may move from what writes an axis into the biases of what reads it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import d4c
from d4c.models.anatomy import ChannelAxis
from d4c.models.clip import CLIP
from d4c.models.config import TOWERS
from d4c.quantization.symmetries.shift import shift, takes_shift
from d4c.quantization.symmetries.uneven import axis_channels

InputsOf = Callable[[CLIP, str], Tensor]
MODELS = {name: d4c.load(name) for name in ("demo-vit", "demo-rn")}
AXES = [
    (model, name, axis)
    for model, clip in MODELS.items()
    for name in TOWERS
    for axis in clip.tower(name).channel_axes()
    if takes_shift(clip.tower(name), axis)
]


@torch.no_grad()
@pytest.mark.parametrize(("model", "name", "axis"), AXES, ids=[f"{m}-{t}.{a.name}" for m, t, a in AXES])
def test_constants_over_six_orders_of_magnitude_change_no_output(
    inputs_of: InputsOf, model: str, name: str, axis: ChannelAxis
) -> None:
    tower = copy.deepcopy(MODELS[model].tower(name)).double()
    inputs = inputs_of(MODELS[model], name)
    expected = tower(inputs)
    before = copy.deepcopy(tower.state_dict())
    size = axis_channels(tower, axis)
    shift(tower, axis, torch.randn(size, dtype=torch.float64) * 10 ** (6 * torch.rand(size, dtype=torch.float64) - 3))
    assert float((tower(inputs) - expected).norm() / expected.norm()) < 1e-8
    assert any(not torch.equal(value, before[key]) for key, value in tower.state_dict().items())


def test_the_axes_are_norms_values_and_keys() -> None:
    assert {axis.name.rpartition(".")[2] for _, _, axis in AXES} == {"norm1", "norm2", "qk", "vo"}


@pytest.mark.parametrize(("model", "name"), [("demo-rn", "stem.hidden1"), ("demo-vit", "norm_post")])
def test_a_relu_and_a_reader_without_bias_are_refused(model: str, name: str) -> None:
    tower = copy.deepcopy(MODELS[model].image)
    (axis,) = (axis for axis in tower.channel_axes() if axis.name == name)
    with pytest.raises(ValueError, match=f"cannot move along {name}"):
        shift(tower, axis, torch.ones(axis_channels(tower, axis)))
