"""Zero-shot probabilities, over invented embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from d4c.errors import DataError
from d4c.zeroshot.classification import classify

WORDS = st.lists(
    st.sampled_from(["red", "green", "blue", "gray", "dark", "light"]), min_size=1, max_size=5, unique=True
)
COLORS = st.lists(st.tuples(*[st.integers(1, 255)] * 3), min_size=1, max_size=4)


def mean_color(pictures: Iterable[Image.Image]) -> NDArray[np.float32]:
    return np.stack([np.asarray(picture.convert("RGB"), np.float32).mean((0, 1)) + 1 for picture in pictures])


def characters(prompts: list[str]) -> list[list[int]]:
    return [[ord(character) for character in prompt[:40].ljust(40)] for prompt in prompts]


def letters(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.stack([1 + (tokens == ord(letter)).sum(1) for letter in "reg"], 1).astype(np.float32)


def probabilities(images: Sequence[Any], labels: Sequence[str], **settings: Any) -> NDArray[np.float32]:
    return classify(
        images, labels, logit_scale=20.0, embed_images=mean_color, tokenize=characters, embed_tokens=letters, **settings
    )


def plain(colors: Sequence[tuple[int, ...]]) -> list[Image.Image]:
    return [Image.new("RGB", (2, 2), color) for color in colors]


@given(COLORS, WORDS)
def test_each_picture_has_probabilities(colors: list[tuple[int, ...]], labels: list[str]) -> None:
    rows = probabilities(plain(colors), labels)
    assert rows.shape == (len(colors), len(labels))
    assert np.allclose(rows.sum(1), 1)
    assert (rows >= 0).all()


@given(COLORS, WORDS, st.randoms())
def test_the_order_of_labels_does_not_matter(colors: list[tuple[int, ...]], labels: list[str], random: Any) -> None:
    order = random.sample(range(len(labels)), len(labels))
    shuffled = probabilities(plain(colors), [labels[i] for i in order])
    assert np.allclose(shuffled, probabilities(plain(colors), labels)[:, order], atol=1e-6)


@given(WORDS)
def test_a_template_twice_is_a_template_once(labels: list[str]) -> None:
    images = plain([(200, 10, 20), (1, 2, 250)])
    once = probabilities(images, labels, templates=["a {}"])
    assert np.allclose(probabilities(images, labels, templates=["a {}", "a {}"]), once, atol=1e-6)


def test_a_picture_is_the_same_in_every_form(tmp_path: Path) -> None:
    picture = Image.effect_noise((9, 7), 90)
    file = tmp_path / "noise.png"
    picture.save(file)
    with file.open("rb") as stream:
        forms = [picture, file, str(file), file.read_bytes(), stream, np.asarray(picture), np.asarray(picture) / 255]
        rows = probabilities(forms, ["red", "green"])
    assert np.ptp(rows, axis=0).max() == 0


def test_transparent_parts_are_white() -> None:
    clear, white = Image.new("RGBA", (3, 3), (255, 0, 0, 0)), Image.new("RGB", (3, 3), "white")
    rows = probabilities([clear, white], ["red", "green"])
    assert np.array_equal(rows[0], rows[1])


def test_more_pictures_than_a_batch_are_all_classified() -> None:
    colors = [(i, 100, 200) for i in range(150)]
    rows = probabilities(plain(colors), ["red", "blue"])
    assert np.allclose(rows[140:], probabilities(plain(colors[140:]), ["red", "blue"]), atol=1e-6)


PLAIN = Image.new("RGB", (2, 2))
REFUSALS: dict[str, tuple[Any, Any, Any, str]] = {
    "one file": ("cat.png", ["cat"], ["{}"], "The images are one str, expected a list"),
    "one picture": (Image.new("L", (1, 1)), ["cat"], ["{}"], "The images are one Image, expected a list"),
    "one label": ([], "cat", ["{}"], "The labels are one str"),
    "one template": ([], ["cat"], "a {}", "The templates are one str"),
    "no labels": ([], [], ["{}"], r"The labels are \[\], expected at least one"),
    "a number": ([], ["cat", 3], ["{}"], r"The labels are \['cat', 3\]"),
    "no template": ([], ["cat"], [], r"The templates are \[\]"),
    "no such file": (["gone.png"], ["cat"], ["{}"], "gone.png does not decode"),
    "one encoded picture": (b"\xff\xd8", ["cat"], ["{}"], "The images are one bytes"),
    "damaged bytes": ([PLAIN, b"\xff\xd8"], ["cat"], ["{}"], "Picture 1 does not decode"),
    "a blank label": ([], ["cat", " "], ["{}"], "Label 1 of 2 is blank"),
    "a label twice": ([], ["cat", "dog", "cat"], ["{}"], r"labels 'cat' \(0\) and 'cat' \(2\) are the same to the mo"),
    "two cases": ([], ["Cat", "cat"], ["{}"], r"labels 'Cat' \(0\) and 'cat' \(1\) are the same"),
    "the same where it is cut": (
        [],
        ["a" * 60 + "b", "a" * 60 + "c"],
        ["{}"],
        "are the same to the model, which reads",
    ),
    "a named field": ([], ["cat"], ["a {label}"], r"The template 'a \{label\}' has no \{\} where the name goes"),
    "a numbered field": ([], ["cat"], ["{}", "a {0}"], r"The template 'a \{0\}'"),
    "a percent sign": ([], ["cat"], ["a %s"], "The template 'a %s'"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_wrong_inputs_are_refused(case: str) -> None:
    images, labels, templates, message = REFUSALS[case]
    with pytest.raises(DataError, match=message):
        probabilities(images, labels, templates=templates)
