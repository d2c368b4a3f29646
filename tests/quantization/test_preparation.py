"""A damaged tower is refused before the work."""

from __future__ import annotations

import copy

import pytest
import torch

from d4c.errors import CheckpointError
from d4c.models.clip import CLIP
from d4c.quantization.preparation import check_embeddings


def emptied(clip: CLIP, names: str) -> CLIP:
    """A copy whose parameters with these names are zero."""
    damaged = copy.deepcopy(clip)
    for name, parameter in damaged.named_parameters():
        if name.startswith(names):
            parameter.data.zero_()
    return damaged


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            "image.",
            "The image tower of 'demo-vit' is damaged: of its embeddings .* 3 of 3 are zero",
        ),
        ("text.projection", "The text tower .* 3 of 3 are zero"),
        ("image.patch_embed", "The image tower .* all 3 are the same"),
        ("text.token_embedding", "The text tower .* all 3 are the same"),
    ],
)
def test_a_tower_that_tells_nothing_apart_is_refused(names: str, message: str, demo_vit: CLIP) -> None:
    samples = {"image": torch.randn(3, 3, 64, 64), "text": demo_vit.tokenize(["cat", "dog", "tree"])}
    check_embeddings(demo_vit, samples)
    with pytest.raises(CheckpointError, match=message):
        check_embeddings(emptied(demo_vit, names), samples)
    other = "text" if "image" in names else "image"
    check_embeddings(emptied(demo_vit, names), {other: samples[other]})


def test_equal_samples_may_have_equal_embeddings(demo_vit: CLIP) -> None:
    check_embeddings(demo_vit, {"image": torch.zeros(3, 3, 64, 64), "text": demo_vit.tokenize(["cat", "cat"])})
