"""A query is the embedding of its words or of its picture, and nothing that has none."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from d4c.errors import DataError
from d4c.runtime.queries import picture_query, word_query
from d4c.runtime.runtime_clip import RuntimeCLIP


@pytest.mark.parametrize("words", ["", "  "])
def test_a_blank_query_is_refused(model: RuntimeCLIP, words: str) -> None:
    with pytest.raises(DataError, match="The query is empty"):
        word_query(model, words)


def test_queries_point_where_the_model_does(model: RuntimeCLIP, emoji: dict[str, Image.Image]) -> None:
    picture = next(iter(emoji.values()))
    for query, embedding in (
        (word_query(model, "a face"), model.encode_text(model.tokenize("a face"))[0]),
        (picture_query(model, picture, "a face"), model.encode_image([model.preprocess(picture)])[0]),
    ):
        assert query.name == "a face"
        assert np.linalg.norm(query.embedding) == pytest.approx(1, abs=1e-5)
        assert query.embedding * np.linalg.norm(embedding) == pytest.approx(embedding, abs=1e-4)


def test_a_picture_that_does_not_decode_is_named(model: RuntimeCLIP) -> None:
    with pytest.raises(DataError, match="does not decode"):
        picture_query(model, b"x", "x")
