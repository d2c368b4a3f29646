"""Turns what is looked for, words or a picture, into an embedding that a gallery is searched with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from d4c.errors import DataError
from d4c.pictures import Picture
from d4c.runtime.runtime_clip import RuntimeCLIP
from d4c.zeroshot.classification import unit_rows


@dataclass(frozen=True)
class Query:
    """What is looked for.

    Args:
        name: How it is shown.
        embedding: Its unit embedding [D].
    """

    name: str
    embedding: NDArray[np.float32]


def word_query(model: RuntimeCLIP, words: str) -> Query:
    """Make a query of words.

    Args:
        model: The model that embedded the pictures.
        words: What to look for.

    Raises:
        DataError: The query is blank.
    """
    if not words.strip():
        raise DataError("The query is empty, expected what to look for in words, such as 'a dog on a beach'.")
    return _query(words, model.encode_text(model.tokenize(words)))


def picture_query(model: RuntimeCLIP, picture: Picture, name: str) -> Query:
    """Make a query of a picture, which finds pictures that are like it.

    Args:
        model: The model that embedded the pictures.
        picture: A path, encoded bytes, an open file, an array or a Pillow image.
        name: How the query is shown.

    Raises:
        DataError: The picture does not decode.
    """
    return _query(name, model.encode_image(model.preprocess(picture)[None]))


def _query(name: str, embeddings: NDArray[np.float32]) -> Query:
    (embedding,) = unit_rows(embeddings)
    if not np.isfinite(embedding).all():
        raise DataError(f"The query {name[:80]} has an embedding that is not finite; look for something else.")
    return Query(name, embedding)
