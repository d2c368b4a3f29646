"""The patch-similarity objective against its definition in loops over heads, pairs and points."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from d4c.errors import SettingError
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.layers import Attention, Block
from d4c.models.tower_config import TextConfig, ViTConfig
from d4c.synthesis.config import SynthesisConfig
from d4c.synthesis.methods.pse import TV_HOLD, similarity_entropy, similarity_losses, total_variation_target
from d4c.synthesis.objectives import total_variation
from d4c.synthesis.setup import Setup, prepare
from d4c.synthesis.synthesize import synthesize
from d4c.synthesis.views import Draws, draw_step, move

VIT = CLIPConfig(16, ViTConfig(24, 8, 32, 2, 2, 32), TextConfig(64, 1, 1, 32, context_length=12))
NAMES = ["a cat", "a dog", "a car"]


@pytest.fixture(scope="module")
def tiny() -> CLIP:
    torch.manual_seed(0)
    return CLIP(VIT, "tiny").double().eval()


def pixels(n: int) -> Tensor:
    return torch.randn(n, 3, 24, 24, dtype=torch.float64)


def start(clip: CLIP, n: int, **changes: Any) -> tuple[SynthesisConfig, Setup, Draws]:
    """A configuration with its setup in double precision, and the draws of one step."""
    config = SynthesisConfig(method="pse", images=n, **changes)
    setup, _, generator = prepare(clip, config, NAMES, seed=0)
    setup = replace(setup, texts=setup.texts.double())
    return config, setup, draw_step(n, clip.image_size, config, generator)


def literal_entropy(group: list[Tensor]) -> list[Tensor]:
    """Entropy of each image of a group from its patches [P, C], one pair and one point after the other."""
    cosines = [[torch.cosine_similarity(a, b, dim=0) for a in patches for b in patches] for patches in group]
    flat = [cosine.item() for own in cosines for cosine in own]
    low, high = min(flat), max(flat)
    out = []
    for own in cosines:
        points = [low + (high - low) * i / 9 for i in range(10)]
        kernels = [
            torch.stack([torch.exp(-((x - c) ** 2) / (2 * 0.01**2)) / math.sqrt(2 * math.pi * 0.01**2) for c in own])
            for x in points
        ]
        density = [kernel.mean() + 1e-4 for kernel in kernels]
        inner = [-p * torch.log(p) for p in density]
        out.append(sum((high - low) / 9 * (inner[i] + inner[i + 1]) / 2 for i in range(9)))
    return out  # type: ignore[return-value]


def literal_tokens(attn: Attention, x: Tensor, form: str) -> Tensor:
    """What one image's patches are compared by, from the input [L, C] of an attention layer, head by head."""
    depth = x.shape[1] // attn.heads
    heads = []
    for h in range(attn.heads):
        q, k, v = (part(x)[:, h * depth : (h + 1) * depth] for part in (attn.q, attn.k, attn.v))
        weights = (q @ k.T / math.sqrt(depth)).softmax(1)
        heads.append(weights @ (x if form == "published" else v))
    return torch.stack(heads).mean(0)[1:]


def literal(clip: CLIP, images: Tensor, form: str, group_size: int) -> Tensor:
    """Minus the summed entropy of each image, block by block, group by group and image by image."""
    x = clip.image.embed(images)
    total = torch.zeros(len(images), dtype=images.dtype)
    for block in clip.image.blocks:
        assert isinstance(block, Block)
        inner = block.norm1(x)
        tokens = [literal_tokens(block.attn, row, form) for row in inner]
        for begin in range(0, len(images), group_size):
            for i, entropy in enumerate(literal_entropy(tokens[begin : begin + group_size])):
                total[begin + i] -= entropy
        x = block(x)
    return total


@torch.no_grad()
def test_the_published_form_equals_its_definition(tiny: CLIP) -> None:
    images = pixels(3)
    config, setup, draws = start(tiny, 3, group_size=2, pse_form="published")
    ours = similarity_losses(tiny, config, setup, images, draws)
    expected = literal(tiny, images, "published", 2) + 0.1 * total_variation(images)
    torch.testing.assert_close(ours, expected)


@torch.no_grad()
def test_the_psaq_form_equals_its_definition(tiny: CLIP) -> None:
    images = pixels(3)
    config, setup, draws = start(tiny, 3, group_size=2, pse_form="psaq", jitter=0.25)
    assert draws.move is not None
    shown = move(images, draws.move)
    logits = F.normalize(tiny.encode_image(shown), dim=-1) @ setup.texts.T / config.temperature
    expected = literal(tiny, shown, "psaq", 2) + F.cross_entropy(logits, setup.targets, reduction="none")
    target = total_variation_target(config, 24)
    expected += TV_HOLD * ((total_variation(images) / target) ** 0.5 - 1).abs()
    ours = similarity_losses(tiny, config, setup, images, draws)
    torch.testing.assert_close(ours, expected)


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 4), st.integers(0, 2**31))
def test_entropy_and_its_gradient_equal_the_loops(patches: int, seed: int) -> None:
    tokens = torch.randn(2, patches, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    tokens.requires_grad_()
    ours = similarity_entropy(tokens, torch.ones(2, 2, dtype=torch.bool))
    theirs = torch.stack(literal_entropy(list(tokens)))
    torch.testing.assert_close(ours, theirs)
    (one,), (other,) = (torch.autograd.grad(value.sum(), tokens) for value in (ours, theirs))
    torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-6)


def test_entropy_knows_neither_the_order_nor_the_length_of_patches() -> None:
    tokens = torch.randn(2, 6, 5, dtype=torch.float64)
    same = torch.ones(2, 2, dtype=torch.bool)
    other = tokens[:, torch.randperm(6)] * torch.rand(2, 6, 1, dtype=torch.float64).add(0.1)
    torch.testing.assert_close(similarity_entropy(other, same), similarity_entropy(tokens, same))


@pytest.mark.parametrize("form", ["published", "psaq"])
def test_each_loss_has_a_gradient_to_its_own_image_only(tiny: CLIP, form: str) -> None:
    """The ends of the integral are the group's, but carry no gradient."""
    images = pixels(2).requires_grad_()
    config, setup, draws = start(tiny, 2, pse_form=form)
    loss = similarity_losses(tiny, config, setup, images, draws)
    (gradient,) = torch.autograd.grad(loss[0], images)
    assert gradient[0].abs().max() > 0
    assert torch.equal(gradient[1], torch.zeros_like(gradient[1]))


def test_an_image_of_one_color_has_a_finite_gradient(tiny: CLIP) -> None:
    images = torch.zeros(1, 3, 24, 24, dtype=torch.float64, requires_grad=True)
    config, setup, draws = start(tiny, 1, pse_form="psaq")
    (gradient,) = torch.autograd.grad(similarity_losses(tiny, config, setup, images, draws).sum(), images)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("form", ["published", "psaq"])
def test_the_loss_falls_on_a_trained_model(demo_vit: CLIP, form: str) -> None:
    made = synthesize(demo_vit, "pse", images=4, iterations=10, lr=0.05, pse_form=form)
    history = [loss for _, loss in made.provenance["loss"]]
    assert history[-1] < 0.8 * history[0]


def test_psaq_images_keep_to_colors_that_exist_and_to_the_total_variation(demo_vit: CLIP) -> None:
    made = synthesize(demo_vit, "pse", images=2, iterations=20, lr=0.05, start="noise", tv_target=1.0)
    mean, std = (torch.tensor(v)[:, None, None] for v in (demo_vit.config.mean, demo_vit.config.std))
    colors = made.pixels * std + mean
    assert colors.min() == pytest.approx(0, abs=1e-6)
    assert colors.max() == pytest.approx(1, abs=1e-6)
    assert total_variation(made.pixels).tolist() == pytest.approx(
        [3.5 ** (2 / 3)] * 2, rel=0.1
    )  # 64 pixels a side, not 224


def test_the_target_of_total_variation_is_the_configured_one_at_224_pixels_and_grows_towards_small_images() -> None:
    config = SynthesisConfig(method="pse", tv_target=0.3)
    assert [total_variation_target(config, size) for size in (224, 28)] == pytest.approx([0.3, 1.2])


def test_only_the_psaq_form_has_prompts(demo_vit: CLIP) -> None:
    few = {"images": 2, "iterations": 1}
    published = synthesize(demo_vit, "pse", pse_form="published", **few)  # type: ignore[arg-type]
    assert (published.prompts, published.targets.tolist(), published.texts) == (("", ""), [-1, -1], ())
    psaq = synthesize(demo_vit, "pse", pse_form="psaq", prompts=["cat"], **few)  # type: ignore[arg-type]
    assert psaq.prompts == ("a photo of a cat.",) * 2
    assert set(psaq.provenance["recognized"]) == {"image"}


def test_a_tower_without_patches_is_refused(demo_rn: CLIP) -> None:
    with pytest.raises(SettingError, match=r"image tower of 'demo-rn' keeps none; use 'bns'\.$"):
        synthesize(demo_rn, "pse", images=2, iterations=1)
