"""Prompts, class embeddings against a literal loop, and the published accuracy of the embedded models."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import d4c
from d4c import D4CError
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.embed import embed, text_embeddings
from d4c.evaluation.load_dataset import load_dataset
from d4c.models.clip import CLIP
from d4c.templates import fill_template, takes_an


@pytest.fixture(scope="module")
def few() -> Dataset:
    """The first 11 emoji with only their own names as classes."""
    demo = load_dataset("demo")
    return replace(demo, classes=demo.classes[:11], labels=demo.labels[:11])


@pytest.mark.parametrize(
    ("template", "name", "prompt"),
    [
        ("a photo of a {}.", "Goldfish", "a photo of a goldfish."),
        ("a photo of a {}.", "Airplane", "a photo of an airplane."),
        ("a {}", "Egyptian cat", "an egyptian cat"),
        ("a {}", "Unicorn", "a unicorn"),
        ("a {}", "Umbrella", "an umbrella"),
        ("a {} icon", "owl", "an owl icon"),
        ("A {}", "owl", "An owl"),
        ("a photo of the {}.", "owl", "a photo of the owl."),
        ("opera {}", "owl", "opera owl"),
        ("a {}", "{}", "a {}"),
    ],
)
def test_template_takes_the_name_in_lower_case_with_its_article(template: str, name: str, prompt: str) -> None:
    assert fill_template(template, name.lower()) == prompt


@pytest.mark.parametrize(
    "name",
    "unicorn uniform union unit university ukulele urologist UFO U-turn used_car utensil euro ewe one-way_street hat "
    "mp 7-segment_display 1000_people sundial MP TV yacht".replace(" mp ", " ")
    .replace(" MP ", " ")
    .split(),
)
def test_a_goes_before_consonant_sounds(name: str) -> None:
    assert not takes_an(name)


@pytest.mark.parametrize(
    "name",
    [
        "owl",
        "umbrella",
        "uncle",
        "unimportant_thing",
        "undershirt",
        "urn",
        "hour",
        "hourglass",
        "honest_man",
        "heirloom",
        "herb",
        "x-ray",
        "F-16",
        "MRI",
        "SUV",
        "MP3",
        "LED_lamp",
        "8-ball",
        "11-sided_die",
        "18,000_people",
        "école",
        '"owl"',
        "onion",
        "igloo",
    ],
)
def test_an_goes_before_vowel_sounds(name: str) -> None:
    assert takes_an(name)


def test_class_embedding_is_the_normalized_mean_over_templates(demo_vit: CLIP, few: Dataset) -> None:
    with torch.no_grad():
        together = text_embeddings(demo_vit, few, batch_size=5)
        for name, row in zip(few.classes, together, strict=True):
            total = torch.zeros(demo_vit.config.embed_dim)
            for template in few.templates:
                feature = demo_vit.encode_text(demo_vit.tokenize(fill_template(template, name)))[0]
                total += feature / feature.norm()
            torch.testing.assert_close(row, total / total.norm(), rtol=1e-4, atol=1e-5)


def test_image_embeddings_keep_the_order_of_the_dataset_whatever_the_batch_size(demo_vit: CLIP, few: Dataset) -> None:
    with torch.no_grad():
        one_by_one = torch.cat([demo_vit.encode_image(demo_vit.preprocess(few.image(i))[None]) for i in range(11)])
    for batch_size in (1, 4, 64):
        embedded = embed(demo_vit, few, batch_size=batch_size).image
        torch.testing.assert_close(embedded, F.normalize(one_by_one, dim=-1), rtol=1e-4, atol=1e-5)


def test_embeddings_have_unit_length_and_no_gradient(demo_vit: CLIP, few: Dataset) -> None:
    embeddings = embed(demo_vit, few)
    for rows in (embeddings.image, embeddings.text):
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(len(rows)))
        assert not rows.requires_grad


@pytest.mark.parametrize("tower", ["image", "text"])
def test_numbers_that_are_not_finite_are_refused_not_ranked(tower: str, few: Dataset) -> None:
    broken = d4c.load("demo-vit")
    getattr(broken, tower).projection.weight.data[0, 0] = float("nan")
    with pytest.raises(D4CError, match=rf"Of a batch of {tower} embeddings on demo \d+ of \d+ are not finite"):
        embed(broken, few)


# Measured with OpenAI's implementation on all 496 images, float32.
def test_embedded_models_reach_their_published_accuracy(demo: CLIP) -> None:
    published = {"demo-vit": 49.19, "demo-rn": 61.90}
    assert d4c.evaluate(demo, "demo").top1.value == pytest.approx(published[demo.name], abs=0.1)
