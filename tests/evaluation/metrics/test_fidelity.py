"""Fidelity: identities, and its numbers against literal loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from d4c import DataError
from d4c.evaluation.embed import Embeddings
from d4c.evaluation.metrics.fidelity import fidelity


def random_embeddings(seed: int, images: int = 9, classes: int = 4, width: int = 6) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)

    def unit(n: int) -> Tensor:
        # One shared direction, as in a real model: all cosines are high.
        return F.normalize(torch.randn(n, width, generator=generator) + 2.0, dim=-1)

    return Embeddings("made up", unit(images), unit(classes), 30.0, 0.0)


seeds = st.integers(0, 2**31)


@given(seeds)
def test_a_model_equals_itself(seed: int) -> None:
    side = random_embeddings(seed)
    measured = fidelity(side, side)
    assert (measured.cosine, measured.centered_cosine, measured.text_cosine) == pytest.approx((1, 1, 1), abs=1e-5)
    assert measured.same_class.value == 100
    assert measured.kl == 0


@given(seeds, seeds)
def test_a_loop_over_images_gives_the_same_numbers(seed: int, other: int) -> None:
    ours, theirs = random_embeddings(seed), random_embeddings(other)
    measured = fidelity(ours, theirs)
    mean = sum(theirs.image) / len(theirs.image)
    cosines, centered, same, kl = [], [], 0, []
    for a, b in zip(ours.image, theirs.image, strict=True):
        cosines.append(float(a @ b))
        centered.append(float((a - mean) @ (b - mean) / ((a - mean).norm() * (b - mean).norm())))
        p, q = ([math.exp(30 * float(x @ t)) for t in side.text] for x, side in ((b, theirs), (a, ours)))
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        kl.append(sum(x * math.log(x / y) for x, y in zip(p, q, strict=True)))
        same += p.index(max(p)) == q.index(max(q))
    n = len(cosines)
    assert measured.cosine == pytest.approx(sum(cosines) / n, abs=1e-5)
    assert measured.centered_cosine == pytest.approx(sum(centered) / n, abs=1e-4)
    assert measured.same_class.value == pytest.approx(100 * same / n)
    assert measured.kl == pytest.approx(sum(kl) / n, rel=1e-3, abs=1e-5)


@given(seeds, seeds)
def test_classes_that_move_with_the_images_change_no_choice(seed: int, rotation: int) -> None:
    """Turning the whole embedding space changes every embedding and no decision."""
    side = random_embeddings(seed)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(rotation)))[0]
    measured = fidelity(replace(side, image=side.image @ turn, text=side.text @ turn), side)
    assert measured.kl == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("change", [{"images": 8}, {"classes": 5}, {"width": 7}])
def test_embeddings_of_another_shape_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(DataError, match="with the same limit"):
        fidelity(random_embeddings(0), random_embeddings(0, **change))


def test_embeddings_of_another_dataset_are_refused() -> None:
    side = random_embeddings(0)
    with pytest.raises(DataError, match="'elsewhere'"):
        fidelity(side, replace(side, dataset="elsewhere"))
