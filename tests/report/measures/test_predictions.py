"""What models say about pictures agrees with an evaluation, tower by tower."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import d4c
from d4c.evaluation.dataset import CaptionedDataset, Dataset, TaggedDataset
from d4c.report.gather import ReportData
from d4c.report.measures.before_after import Answer, Caption, Example, Examples, examples, nearest, shared
from d4c.report.measures.predictions import Accuracy, Predictions, accuracy, guilty
from d4c.report.subject import Subject


def predictions(report: ReportData) -> Predictions:
    assert isinstance(report.predictions, Predictions)
    return report.predictions


def measured(report: ReportData) -> Accuracy:
    assert isinstance(report.accuracy, Accuracy)
    return report.accuracy


def test_both_towers_give_what_an_evaluation_gives(report: ReportData, subject: Subject) -> None:
    own = predictions(report)
    expected = d4c.evaluate(subject.model, own.dataset, reference=own.reference, progress=None)
    both = measured(report).towers[subject.name]["both"]
    assert both.top1 == expected.top1
    assert both.fidelity is not None
    assert expected.fidelity is not None
    assert both.fidelity.kl == pytest.approx(expected.fidelity.kl, abs=1e-6)


def test_a_tower_that_is_float_costs_nothing(report: ReportData, subject: Subject) -> None:
    own = predictions(report)
    only_text = replace(own.models[subject.name], image=own.reference.image)
    towers = accuracy(replace(own, models={"x": only_text})).towers["x"]
    assert towers["image"].fidelity is not None
    assert towers["text"].fidelity is not None
    assert towers["both"].fidelity is not None
    assert abs(towers["image"].fidelity.kl) < 1e-9
    assert towers["both"].fidelity.kl == towers["text"].fidelity.kl > 0
    assert guilty(towers).startswith("The text tower loses more")


def test_neighbors_are_those_of_a_search_by_hand() -> None:
    features = torch.nn.functional.normalize(torch.randn(7, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    found = nearest(features, 3)
    for row in range(7):
        others = sorted((float(features[row] @ features[i]), i) for i in range(7) if i != row)
        assert found[row].tolist() == [i for _, i in others[::-1][:3]]
    assert nearest(features, 30).shape == (7, 6)


def test_what_is_shared_does_not_depend_on_the_order() -> None:
    first = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4]])
    assert shared(first, first.flip(1)) == 1
    assert shared(first, torch.tensor([[1, 2, 8, 9], [5, 6, 7, 8]])) == 0.25


def test_changed_pictures_come_first_and_captions_fall(report: ReportData, subject: Subject) -> None:
    shown = report.examples
    assert isinstance(shown, Examples)
    assert len(shown.examples) == 8
    changed = [
        example.answers["float"].captions[0].text != example.answers[subject.name].captions[0].text
        for example in shown.examples
    ]
    count = round((1 - shown.same_caption[subject.name]) * shown.pictures)
    assert count == 0 or changed[0]
    for example in shown.examples:
        for answer in example.answers.values():
            values = [caption.probability for caption in answer.captions]
            assert values == sorted(values, reverse=True)
            assert len(values) == 5
            assert example.picture not in answer.neighbors


def test_a_neighbor_is_changed_on_the_side_where_the_other_lacks_it() -> None:
    before, after = Answer((Caption("a", 1.0, True),), (1, 2)), Answer((Caption("a", 1.0, True),), (2, 3))
    example = Example(0, "a", {"float": before, "W4A8": after})
    assert [example.is_changed("float", i) for i in (1, 2)] == [True, False]
    assert [example.is_changed("W4A8", i) for i in (2, 3)] == [False, True]


def test_pictures_with_tags_have_all_of_them_as_labels(report: ReportData) -> None:
    own = predictions(report)
    assert isinstance(own.dataset, Dataset)
    classes, read = own.dataset.classes, own.dataset.read
    tags = (np.arange(24)[:, None] % 12 == np.arange(12)) | (np.arange(12) == 1)
    tagged = replace(own, dataset=TaggedDataset(own.dataset.name, classes, tags, read))
    assert (tagged.labels(2), tagged.name(2)) == (frozenset([1, 2]), f"{classes[1]}, {classes[2]}")
    for example in examples(tagged).examples:
        for answer in example.answers.values():
            expected = {classes[i] for i in tagged.labels(example.picture)}
            assert {caption.text for caption in answer.captions if caption.is_label} <= expected


def test_pictures_with_captions_have_their_own_as_labels(report: ReportData) -> None:
    own = predictions(report)
    captions = tuple((f"first of {i}", f"second of {i}") for i in range(6))
    captioned = replace(own, dataset=CaptionedDataset("own", captions, own.dataset.read))
    assert captioned.texts[2:4] == ("first of 1", "second of 1")
    assert (captioned.labels(1), captioned.name(1)) == (frozenset([2, 3]), "first of 1")
