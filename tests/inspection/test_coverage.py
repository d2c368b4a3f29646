"""Prompt coverage: information theory and counting that can be done in two ways."""

from __future__ import annotations

import itertools
import math
from statistics import fmean

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import d4c
from d4c.calibration.prompts import prompt_features, resolve_prompts
from d4c.errors import DataError
from d4c.evaluation.batches import pixel_batches
from d4c.evaluation.load_dataset import load_dataset
from d4c.inspection.coverage import coverage
from d4c.inspection.features import unit_features
from d4c.models.clip import CLIP


def units(n: int, width: int = 8, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(n, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_prompts_that_are_their_own_images_are_all_covered_and_recognized() -> None:
    texts = torch.eye(5)
    measured = coverage(texts, texts, 200.0, torch.arange(5))
    assert measured.nearest_prompts == measured.prompts == 5
    assert measured.recognized == 1
    assert {measured.target_cosine, measured.nearest_cosine, measured.best_cosine} == {(1.0,) * 5}
    assert measured.kl == pytest.approx([math.log(5)] * 5)
    assert measured.kl_of_mean == pytest.approx(0, abs=1e-12)
    assert measured.target_kl == pytest.approx([0] * 5, abs=1e-12)


def test_equal_images_cover_one_prompt() -> None:
    measured = coverage(torch.eye(5)[[2, 2, 2]], torch.eye(5), 200.0)
    assert measured.nearest_prompts == 1
    assert measured.kl_of_mean == pytest.approx(fmean(measured.kl))


def test_prompts_that_are_all_alike_are_never_decided() -> None:
    measured = coverage(units(4), units(1).expand(6, -1), 100.0)
    assert measured.kl == pytest.approx([0] * 4, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 12), p=st.integers(1, 9), scale=st.floats(0.1, 100), seed=st.integers(0, 999))
def test_the_divergences_differ_by_the_logarithm_of_the_inception_score(
    n: int, p: int, scale: float, seed: int
) -> None:
    images, texts = units(n, seed=seed), units(p, seed=seed + 1000)
    measured = coverage(images, texts, scale)
    shown = (scale * images.double() @ texts.double().T).softmax(1)
    score = (shown * (shown / shown.mean(0)).log()).sum(1).mean()
    assert fmean(measured.kl) - measured.kl_of_mean == pytest.approx(float(score), abs=1e-9)
    assert measured.nearest_prompts <= min(n, p)
    assert max(measured.best_cosine) == max(measured.nearest_cosine)


def test_expected_prompts_is_the_mean_over_all_draws() -> None:
    draws = [len(set(draw)) for draw in itertools.product(range(4), repeat=3)]
    assert coverage(units(3), units(4), 1.0).expected_prompts == pytest.approx(fmean(draws))


def test_targets_count_only_where_there_are_any() -> None:
    texts = torch.eye(4)
    measured = coverage(texts[[0, 1, 2]], texts, 50.0, torch.tensor([0, -1, 3]))
    assert measured.recognized == 0.5
    assert list(measured.target_cosine) == [1, 0]
    without = coverage(texts[[0, 1, 2]], texts, 50.0)
    assert (without.recognized, without.target_cosine, without.target_kl) == (None, (), ())


def test_target_divergence_is_the_cross_entropy() -> None:
    images, texts, targets = units(6), units(5, seed=1), torch.tensor([0, 1, 2, 3, 4, 0])
    expected = F.cross_entropy(30 * images.double() @ texts.double().T, targets, reduction="none")
    assert coverage(images, texts, 30.0, targets).target_kl == pytest.approx(expected.tolist())


@pytest.mark.parametrize(
    ("images", "texts", "targets"),
    [((3, 8), (4, 9), (3,)), ((3, 8), (4, 8), (2,)), ((0, 8), (4, 8), (0,))],
    ids=["width", "targets", "empty"],
)
def test_embeddings_that_do_not_fit_are_refused(
    images: tuple[int, int], texts: tuple[int, int], targets: tuple[int]
) -> None:
    with pytest.raises(DataError, match=r"expected \[N, D\], \[P, D\] and \[N\]"):
        coverage(torch.ones(images), torch.ones(texts), 1.0, torch.zeros(targets, dtype=torch.int64))


def test_pictures_cover_more_prompts_than_noise(demo: CLIP) -> None:
    pictures = next(pixel_batches(load_dataset("demo").subset(32), demo.preprocess, 32))
    noise = d4c.synthesize(demo, "noise", images=32).pixels
    texts = prompt_features(demo, resolve_prompts(None))
    measured = [coverage(unit_features(demo, pixels), texts, demo.logit_scale) for pixels in (pictures, noise)]
    assert measured[0].nearest_prompts > 2 * measured[1].nearest_prompts
    assert measured[0].kl_of_mean < measured[1].kl_of_mean
