"""The channels within a head may be mixed by any invertible matrix."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import d4c
from d4c.models.anatomy import ChannelAxis
from d4c.models.clip import CLIP
from d4c.models.config import TOWERS
from d4c.models.tower import Tower
from d4c.quantization.symmetries.mix import mix_heads
from d4c.quantization.symmetries.uneven import axis_channels

InputsOf = Callable[[CLIP, str], Tensor]
MODELS = {name: d4c.load(name) for name in ("demo-vit", "demo-rn")}


def head_axes(tower: Tower) -> list[ChannelAxis]:
    return [axis for axis in tower.channel_axes() if axis.heads]


def matrices(tower: Tower, axis: ChannelAxis, orders: float, generator: torch.Generator) -> Tensor:
    """Random matrices whose singular values lie within so many orders of magnitude."""
    size = axis_channels(tower, axis) // axis.heads
    left, right = (
        torch.linalg.qr(torch.randn(axis.heads, size, size, generator=generator, dtype=torch.float64)).Q
        for _ in range(2)
    )
    values = 10 ** (orders * (torch.rand(axis.heads, size, 1, generator=generator, dtype=torch.float64) - 0.5))
    return left @ (values * right)


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    orders=st.floats(0, 6),
    model=st.sampled_from(sorted(MODELS)),
    name=st.sampled_from(TOWERS),
)
def test_matrices_over_six_orders_of_magnitude_change_no_output(
    inputs_of: InputsOf, seed: int, orders: float, model: str, name: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        tower = copy.deepcopy(MODELS[model].tower(name)).double()
        inputs = inputs_of(MODELS[model], name)
        expected = tower(inputs)
        for axis in head_axes(tower):
            mix_heads(tower, axis, matrices(tower, axis, orders, generator))
        assert float((tower(inputs) - expected).norm() / expected.norm()) < 1e-7


@torch.no_grad()
@pytest.mark.parametrize("model", MODELS)
def test_a_mix_changes_all_layers_of_the_axis_and_no_other(model: str) -> None:
    tower = copy.deepcopy(MODELS[model].image).double()
    axis = head_axes(tower)[0]
    before = copy.deepcopy(tower.state_dict())
    mix_heads(tower, axis, matrices(tower, axis, 1, torch.Generator().manual_seed(0)))
    changed = {
        key.rpartition(".")[0] for key, value in tower.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed == {*axis.writers, *axis.partners, *axis.readers}
