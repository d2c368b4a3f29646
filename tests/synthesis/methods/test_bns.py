"""The BatchNorm objective against its formula written out group by group and layer by layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from d4c.errors import SettingError
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.tower_config import ResNetConfig, TextConfig
from d4c.synthesis.config import SynthesisConfig
from d4c.synthesis.methods.bns import batch_norms, statistics_losses
from d4c.synthesis.objectives import total_variation
from d4c.synthesis.setup import prepare
from d4c.synthesis.synthesize import synthesize
from d4c.synthesis.views import Draws

RN = CLIPConfig(16, ResNetConfig(32, 8, (1, 1, 1, 1), 4), TextConfig(64, 1, 1, 32, context_length=12))
NOTHING = Draws(None, None, None)


@pytest.fixture(scope="module")
def tiny() -> CLIP:
    """A ResNet of random weights with running statistics that are not 0 and 1, in double precision."""
    torch.manual_seed(0)
    clip = CLIP(RN, "tiny").double().eval()
    for layer in batch_norms(clip):
        torch.nn.init.normal_(layer.get_buffer("running_mean"))
        torch.nn.init.uniform_(layer.get_buffer("running_var"), 0.5, 2)
    return clip


def losses(clip: CLIP, images: Tensor, **changes: Any) -> Tensor:
    config = SynthesisConfig(method="bns", images=len(images), **changes)
    setup = prepare(clip, config, (), seed=0)[0]
    return statistics_losses(clip, config, setup, images, NOTHING)


def literal(clip: CLIP, images: Tensor) -> Tensor:
    """The published loss of one group without total variation, channel by channel."""
    found: list[Tensor] = []

    def compare(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for name, batch in (
            ("running_mean", [inputs[0][:, c].mean() for c in range(inputs[0].shape[1])]),
            ("running_var", [inputs[0][:, c].var(correction=0) for c in range(inputs[0].shape[1])]),
        ):
            found.append(torch.stack([(a - b) ** 2 for a, b in zip(batch, layer.get_buffer(name), strict=True)]).mean())

    handles = [layer.register_forward_pre_hook(compare) for layer in batch_norms(clip)]
    clip.encode_image(images)
    for handle in handles:
        handle.remove()
    assert len(found) == 2 * len(handles)
    return torch.stack(found).sum()


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 7), st.integers(1, 4))
@torch.no_grad()
def test_groups_in_one_batch_equal_the_published_loss_group_by_group(tiny: CLIP, n: int, group_size: int) -> None:
    images = torch.randn(n, 3, 32, 32, dtype=torch.float64)
    ours = losses(tiny, images, group_size=group_size)
    for part, own in zip(images.split(group_size), ours.split(group_size), strict=True):
        torch.testing.assert_close(own, literal(tiny, part) + 0.1 * total_variation(part))


@torch.no_grad()
def test_the_loss_is_zero_exactly_when_the_running_statistics_are_those_of_the_batch(tiny: CLIP) -> None:
    clip = CLIP(RN).double().eval()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)

    def adopt(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        layer.get_buffer("running_mean").copy_(inputs[0].mean((0, 2, 3)))
        layer.get_buffer("running_var").copy_(inputs[0].var((0, 2, 3), correction=0))

    handles = [layer.register_forward_pre_hook(adopt) for layer in batch_norms(clip)]
    clip.encode_image(images)
    for handle in handles:
        handle.remove()
    assert losses(clip, images, tv_weight=0).max() < 1e-20
    last = batch_norms(clip)[-1]
    for name in ("running_mean", "running_var"):
        before = last.get_buffer(name)[0].item()
        last.get_buffer(name)[0] += 1e-3
        assert losses(clip, images, tv_weight=0).min() > 1e-10
        last.get_buffer(name)[0] = before


def test_statistics_of_the_set_are_those_of_one_group_of_all_images(tiny: CLIP) -> None:
    images = torch.randn(5, 3, 32, 32, dtype=torch.float64)
    whole = losses(tiny, images, statistics="set", group_size=2)
    assert torch.equal(whole, losses(tiny, images, group_size=5))
    assert (whole - losses(tiny, images, group_size=2)).abs().min() > 1e-3


def test_one_group_gives_the_same_images_either_way(demo_rn: CLIP) -> None:
    one, other = (synthesize(demo_rn, "bns", images=3, iterations=2, statistics=how).pixels for how in ("batch", "set"))
    assert torch.equal(one, other)


def test_a_gradient_reaches_every_image(tiny: CLIP) -> None:
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(losses(tiny, images, tv_weight=0, group_size=2).sum(), images)
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize("statistics", ["batch", "set"])
def test_the_loss_falls_on_a_trained_model(demo_rn: CLIP, statistics: str) -> None:
    made = synthesize(demo_rn, "bns", images=8, iterations=12, group_size=4, lr=0.05, statistics=statistics)
    history = [loss for _, loss in made.provenance["loss"]]
    assert history[-1] < 0.3 * history[0]


def test_images_have_no_prompts(demo_rn: CLIP) -> None:
    made = synthesize(demo_rn, "bns", images=2, iterations=1)
    assert made.prompts == ("", "")
    assert made.targets.tolist() == [-1, -1]
    assert made.texts == ()
    assert "recognized" not in made.provenance


def test_a_tower_without_batch_norm_is_refused(demo_vit: CLIP) -> None:
    with pytest.raises(SettingError, match=r"image tower of 'demo-vit' has none; use 'pse' or 'd4c'\.$"):
        synthesize(demo_vit, "bns", images=2, iterations=1)
