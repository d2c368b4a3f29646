"""Differences between models that share their images, and one tower at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import d4c
from d4c import DataError, SettingError
from d4c.evaluation.dataset import CaptionedDataset, Dataset, TaggedDataset
from d4c.evaluation.embed import Embeddings, embed
from d4c.evaluation.evaluate import with_tower
from d4c.evaluation.load_dataset import load_dataset
from d4c.evaluation.metrics.intervals import wilson
from d4c.evaluation.score import hits, paired_difference, score
from d4c.models.clip import CLIP


@pytest.fixture(scope="module")
def few() -> Dataset:
    """The first 30 emoji with only their own names as classes."""
    demo = load_dataset("demo")
    return replace(demo, classes=demo.classes[:30], labels=demo.labels[:30])


@pytest.fixture(scope="module")
def plain(demo_vit: CLIP, few: Dataset) -> Embeddings:
    return embed(demo_vit, few)


@pytest.fixture(scope="module")
def noisy(plain: Embeddings) -> Embeddings:
    """The same with both sides moved a little."""
    generator = torch.Generator().manual_seed(0)

    def moved(rows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(rows + 0.03 * torch.randn(rows.shape, generator=generator), dim=-1)

    return replace(plain, image=moved(plain.image), text=moved(plain.text))


def test_a_difference_is_that_of_the_figures_and_its_interval_is_narrower(
    plain: Embeddings, noisy: Embeddings, few: Dataset
) -> None:
    change = paired_difference(noisy, plain, few)
    figures = [score(each, few).top1 for each in (noisy, plain)]
    assert change.value == pytest.approx(figures[0].value - figures[1].value)
    assert change.low <= change.value <= change.high
    assert change.high - change.low < min(figure.high - figure.low for figure in figures)
    assert score(noisy, few, reference=plain).fidelity.change == change  # type: ignore[union-attr]


def test_images_that_all_agree_do_not_exclude_a_difference(plain: Embeddings, few: Dataset) -> None:
    same = paired_difference(plain, plain, few)
    most = wilson(0, len(few)).high
    assert (same.low, same.value, same.high) == (-most, 0, most)


def test_models_that_skipped_different_images_are_not_compared(plain: Embeddings, few: Dataset) -> None:
    with pytest.raises(DataError, match="skipped different images of demo"):
        paired_difference(plain, replace(plain, skipped={3: "It is broken."}), few)


def test_each_tower_alone_is_scored_with_the_other_one_of_float(
    demo_vit: CLIP, plain: Embeddings, noisy: Embeddings, few: Dataset
) -> None:
    fidelity = score(noisy, few, reference=plain).fidelity
    assert fidelity is not None
    assert fidelity.image_tower is not None
    assert fidelity.text_tower is not None
    image, text = (score(with_tower(noisy, plain, tower), few, reference=plain) for tower in ("image", "text"))
    assert fidelity.image_tower == image.top1
    assert fidelity.text_tower == text.top1
    assert image.fidelity is not None
    assert image.fidelity.text_cosine == pytest.approx(1)
    assert image.fidelity.image_tower is None
    with pytest.raises(SettingError, match="compared with a float model, and there is none"):
        d4c.evaluate(demo_vit, few, towers="image")


def test_captions_and_tags_are_scored_as_classes_are(demo_vit: CLIP, few: Dataset) -> None:
    """Names in a single template are captions, and one tag per image is a class."""
    few = replace(few, templates=("{}",), verbatim=True).subset(20)
    few = replace(few, classes=tuple(few.classes[i] for i in few.labels), labels=np.arange(20))
    pairs = CaptionedDataset("pairs", tuple((name,) for name in few.classes), few.read)
    tagged = TaggedDataset("tags", few.classes, np.eye(20, dtype=bool), few.read, few.templates, verbatim=True)
    classes, captions, tags = (d4c.evaluate(demo_vit, data, reference=demo_vit) for data in (few, pairs, tagged))
    assert captions.figures["text_recall1"] == classes.top1
    assert captions.figures["text_recall5"] == classes.top5
    assert tags.figures.keys() == {"mean_average_precision"}
    ranks = (-embed(demo_vit, few).scores().T).argsort(1).argsort(1).diagonal()
    assert tags.figures["mean_average_precision"].value == pytest.approx(float((100 / (1 + ranks)).mean()))
    assert hits(embed(demo_vit, tagged), tagged) is None
    for metrics in (classes, captions, tags):
        assert metrics.fidelity is not None
        assert metrics.fidelity.change is not None
        assert metrics.fidelity.change.value == 0


def test_captions_of_a_picture_that_does_not_decode_are_left_out(demo_vit: CLIP, few: Dataset) -> None:
    names = tuple((name, f"a {name}") for name in few.classes[:6])
    damaged = CaptionedDataset("pairs", names, lambda i: b"broken" if i == 2 else few.read(i))
    rest = CaptionedDataset("pairs", names[:2] + names[3:], lambda i: few.read(i + (i >= 2)))
    assert d4c.evaluate(demo_vit, damaged).figures == d4c.evaluate(demo_vit, rest).figures
    assert d4c.evaluate(demo_vit, damaged).count == 5
