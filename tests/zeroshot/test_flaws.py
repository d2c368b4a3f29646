"""Embeddings without a direction, or the same for everything, are called what they are; others pass."""

from __future__ import annotations

import numpy as np
import pytest

from d4c.errors import DataError
from d4c.zeroshot.classification import label_embeddings
from d4c.zeroshot.flaws import flaw

GOOD = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32) + 5


def with_row(row: object) -> np.ndarray:
    return np.concatenate([GOOD, np.array([row], np.float32)])


@pytest.mark.parametrize(
    ("embeddings", "expected"),
    [
        (GOOD, None),
        (GOOD[:1], None),
        (GOOD[:0], None),
        (with_row([np.nan, 0, 0]), "1 of 5 are not finite"),
        (with_row([np.inf, 0, 0]), "1 of 5 are not finite"),
        (with_row([0, 0, 0]), "1 of 5 are zero"),
        (np.zeros((2, 3), np.float32), "2 of 2 are zero"),
        (GOOD[[0, 0, 0]], "all 3 are the same"),
        (GOOD[[0, 0]] * np.array([[1], [1 + 1e-7]], np.float32), "all 2 are the same"),
        (GOOD[[0, 0]] * np.array([[1], [1 + 1e-4]], np.float32), None),
    ],
)
def test_flaws_are_named(embeddings: np.ndarray, expected: str | None) -> None:
    assert flaw(embeddings, different=True) == expected
    assert flaw(embeddings) == (None if expected and "same" in expected else expected)


def test_what_has_no_direction_is_not_classified() -> None:
    with pytest.raises(DataError, match=r"Of the embeddings of prompts 1 of 2 are zero, expected a direction of each"):
        label_embeddings(["a", "b"], ["{}"], lambda texts: [[1], [2]], lambda tokens: with_row([0, 0, 0])[-2:])
