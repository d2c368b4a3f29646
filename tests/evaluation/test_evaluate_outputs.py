"""What users of one tower read is compared with the float tower's."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import d4c
from d4c.errors import SettingError
from d4c.evaluation.dataset import Dataset
from d4c.models.clip import CLIP


@pytest.fixture
def pictures() -> Dataset:
    """Six random pictures of two classes."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 20, 20, 3), np.uint8)
    return Dataset("noise", ("cat", "owl"), np.arange(6) % 2, lambda i: noise[i], ("a {}", "a photo of a {}"))


def test_a_tower_equals_itself(lone_image: CLIP, lone_text: CLIP, pictures: Dataset) -> None:
    for clip, count in ((lone_image, 6), (lone_text, 4)):
        same = d4c.evaluate_outputs(clip, clip, pictures, progress=None)
        assert (same.tower, same.count) == (clip.towers[0], count)
        assert list(same.cosine) == ["embedding", "penultimate", "last"]
        for figures in (same.cosine, same.centered_cosine):
            assert all(figure.value == pytest.approx(1, abs=1e-5) for figure in figures.values())


def test_a_change_of_the_last_block_leaves_the_penultimate_states(lone_image: CLIP, pictures: Dataset) -> None:
    changed = copy.deepcopy(lone_image)
    changed.get_submodule("image.blocks.2.mlp.fc2").weight.mul_(-3)  # type: ignore[operator]
    compared = d4c.evaluate_outputs(changed, lone_image, pictures, batch_size=4, progress=None)
    assert compared.cosine["penultimate"].value == pytest.approx(1, abs=1e-5)
    for name in ("embedding", "last"):
        assert compared.cosine[name].value < 0.999
        # What all rows share is no similarity.
        assert compared.centered_cosine[name].value < compared.cosine[name].value


def test_one_tower_of_two_is_compared_if_it_is_named(demo_vit: CLIP, pictures: Dataset) -> None:
    with pytest.raises(SettingError, match="The tower is None, expected one that both models have"):
        d4c.evaluate_outputs(demo_vit, demo_vit, pictures, progress=None)
    compared = d4c.evaluate_outputs(demo_vit, demo_vit, pictures, tower="text", limit=3, progress=None)
    assert (compared.tower, compared.count) == ("text", 3)


def test_accuracy_of_one_tower_is_refused(lone_image: CLIP, pictures: Dataset) -> None:
    with pytest.raises(SettingError, match="Accuracy takes both towers, and 'lone' is the image tower alone"):
        d4c.evaluate(lone_image, pictures, progress=None)


def test_an_image_of_one_number_of_rows_is_not_needed(demo_rn: CLIP, pictures: Dataset) -> None:
    compared = d4c.evaluate_outputs(demo_rn, demo_rn, pictures, tower="image", progress=None)
    assert list(compared.cosine) == ["embedding"]
    assert torch.tensor(compared.cosine["embedding"].value).isclose(torch.tensor(1.0))
