"""Structure: region statistics against loops, and the foreground against the attention that the model computes."""

from __future__ import annotations

import math
from statistics import fmean, pvariance
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import d4c
from d4c.errors import SettingError
from d4c.evaluation.batches import pixel_batches
from d4c.evaluation.load_dataset import load_dataset
from d4c.inspection.features import unit_features
from d4c.inspection.spectrum import luma
from d4c.inspection.structure import (
    BINS,
    Structure,
    histogram_entropy,
    region_statistics,
    structure,
    watch_patches,
)
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.tower_config import ResNetConfig, TextConfig


def measure(clip: CLIP, pixels: Tensor) -> Structure:
    with watch_patches(clip) as patches:
        unit_features(clip, pixels)
    return structure(patches, luma(clip, pixels))


def cosines(patches: Tensor) -> Tensor:
    unit = F.normalize(patches, dim=-1)
    return unit @ unit.transpose(1, 2)


@settings(max_examples=20, deadline=None)
@given(count=st.integers(4, 9), seed=st.integers(0, 999))
def test_region_statistics_are_those_of_loops(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    similarity = cosines(torch.randn(2, count, 5, generator=generator, dtype=torch.float64))
    chosen = torch.stack([torch.randperm(count, generator=generator) < count // 2 for _ in range(2)])
    variance, contrast = region_statistics(similarity, chosen)
    for n in range(2):
        pairs = [(i, j) for i in range(count) for j in range(i)]
        across = [float(similarity[n, i, j]) for i, j in pairs if chosen[n, i] != chosen[n, j]]
        within = [float(similarity[n, i, j]) for i, j in pairs if chosen[n, i] == chosen[n, j]]
        assert float(variance[n]) == pytest.approx(pvariance(across))
        assert float(contrast[n]) == pytest.approx(fmean(within) - fmean(across))


def test_two_flat_regions_have_full_contrast_and_no_variance() -> None:
    patches = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])[None]
    variance, contrast = region_statistics(cosines(patches), torch.tensor([[True, True, False, False]]))
    assert (float(variance), float(contrast)) == (0, 1)


def test_entropy_is_least_for_one_value_and_log_2_for_all_values() -> None:
    same = torch.ones(1, 6, 6)
    assert float(histogram_entropy(same)) == pytest.approx(math.log(2 / BINS))
    count = 25  # 300 pairs, three in each bin
    spread = torch.zeros(1, count, count)
    first, second = torch.triu_indices(count, count, 1)
    spread[0, first, second] = (torch.arange(300) % BINS + 0.5) / BINS * 2 - 1
    assert float(histogram_entropy(spread)) == pytest.approx(math.log(2))


class PlainProduct(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b


@torch.no_grad()
def test_the_foreground_is_what_the_model_attends_to_most(demo: CLIP) -> None:
    pixels = torch.randn(5, 3, 64, 64)
    layout = demo.image.patches()
    assert layout is not None
    attn: Any = demo.image.get_submodule(layout.summary)
    attentions: list[Tensor] = []
    fused = attn.context
    attn.context = PlainProduct()  # a module of another kind is called, where MatMul is part of a fused kernel
    attn.context.register_forward_pre_hook(lambda _module, inputs: attentions.append(inputs[0]))
    try:
        with watch_patches(demo) as patches:
            demo.encode_image(pixels)
    finally:
        attn.context = fused
    attention = attentions[0][:, :, 0, 1:].mean(1)
    torch.testing.assert_close(patches.weights[0], attention)
    foreground = patches.foreground()
    assert foreground.sum(1).tolist() == [attention.shape[1] // 2] * 5
    least = attention.masked_fill(~foreground, math.inf).amin(1)
    assert bool((least >= attention.masked_fill(foreground, -math.inf).amax(1)).all())


def test_images_are_measured_one_by_one(demo: CLIP) -> None:
    pixels = torch.randn(34, 3, 64, 64)
    turned = measure(demo, pixels.flip(0))
    for name in ("variance", "contrast", "entropy", "slope"):
        # A similarity at the edge of two bins may fall into either.
        tolerance = 0.05 if name == "entropy" else 1e-4
        assert getattr(turned, name)[::-1] == pytest.approx(getattr(measure(demo, pixels), name), abs=tolerance)


def test_pictures_have_more_structure_than_noise(demo_vit: CLIP) -> None:
    pictures = next(pixel_batches(load_dataset("demo").subset(32), demo_vit.preprocess, 32))
    measured = measure(demo_vit, pictures)
    noise = measure(demo_vit, d4c.synthesize(demo_vit, "noise", images=32).pixels)
    assert fmean(measured.contrast) > 5 * fmean(noise.contrast)
    assert fmean(measured.variance) > 1.5 * fmean(noise.variance)
    assert min(measured.entropy) > fmean(noise.entropy)
    assert max(measured.slope) < -1 < fmean(noise.slope)


def test_patches_are_those_of_the_tower(demo_vit: CLIP, demo_rn: CLIP) -> None:
    pixels = torch.randn(2, 3, 64, 64)
    assert measure(demo_vit, pixels).patches == (64 // 8) ** 2
    assert measure(demo_rn, pixels).patches == (64 // 32) ** 2


def test_a_tower_with_a_single_patch_is_refused() -> None:
    config = CLIPConfig(8, ResNetConfig(32, 4, (1, 1, 1, 1), 2), TextConfig(8, 1, 1, 8))
    with pytest.raises(SettingError, match="has 1 patches, expected at least 4"):
        measure(CLIP(config).eval(), torch.randn(2, 3, 32, 32))
