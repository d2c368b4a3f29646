"""Patches of the embedded models, and heat maps that are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import d4c
from d4c import SettingError
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.load_dataset import load_dataset
from d4c.evaluation.metrics.dense import heat_map_overlap, patch_cosines
from d4c.models.clip import CLIP
from d4c.models.resnet import AttentionPool


@pytest.fixture(scope="module")
def few() -> Dataset:
    """The first six emoji with only their own names as classes."""
    demo = load_dataset("demo")
    return replace(demo, classes=demo.classes[:6], labels=demo.labels[:6])


def test_patches_see_what_lies_under_them(demo_vit: CLIP) -> None:
    """A picture whose right half changes keeps the patches of its left edge closer than those of its right edge."""
    pixels = torch.zeros(2, 3, demo_vit.image_size, demo_vit.image_size)
    pixels[1, :, :, demo_vit.image_size // 2 :] = 2.0
    with torch.no_grad():
        patches = F.normalize(demo_vit.encode_patches(pixels), dim=-1)
    same = (patches[0] * patches[1]).sum(-1).view(8, 8).mean(0)
    assert same[0] > same[-1]


@torch.no_grad()
def test_a_patch_passes_the_head_of_the_class_token(demo_vit: CLIP, few: Dataset) -> None:
    pixels = demo_vit.preprocess(few.image(0))[None]
    state = pixels
    for stage in demo_vit.image.stages()[:-1]:
        state = stage.run(demo_vit.image, state, pixels)
    for row in (1, 40):
        torch.testing.assert_close(
            demo_vit.image.head(state[:, row:], pixels), demo_vit.encode_patches(pixels)[:, row - 1]
        )


@torch.no_grad()
def test_a_pool_of_equal_positions_is_each_of_them() -> None:
    pool = AttentionPool(grid=3, width=8, heads=2, embed_dim=5)
    pool.positional_embedding.zero_()
    features = torch.randn(2, 8, 1, 1).expand(2, 8, 3, 3)
    torch.testing.assert_close(pool.each(features), pool(features)[:, None].expand(2, 9, 5))


def test_dense_fidelity_is_perfect_with_itself_and_needs_a_reference(demo: CLIP, few: Dataset) -> None:
    fidelity = d4c.evaluate(demo, few, reference=demo, dense=True).fidelity
    assert fidelity is not None
    assert fidelity.patch_cosine == pytest.approx(1, abs=1e-5)
    assert fidelity.heat_map is not None
    assert fidelity.heat_map.value == pytest.approx(100)
    assert d4c.evaluate(demo, few, reference=demo).fidelity.patch_cosine is None  # type: ignore[union-attr]
    with pytest.raises(SettingError, match=r"there is none; give it as reference \(--reference\)"):
        d4c.evaluate(demo, few, dense=True)


def test_a_heat_map_that_moves_by_half_keeps_half() -> None:
    text = torch.tensor([[1.0, 0.0]])
    lit, dark = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    reference = torch.stack([lit, lit, *[dark] * 6])[None]
    moved = torch.stack([dark, lit, lit, *[dark] * 5])[None]
    assert heat_map_overlap(moved, reference, text, text).tolist() == [50.0]
    assert patch_cosines(moved, reference).tolist() == pytest.approx([6 / 8])
