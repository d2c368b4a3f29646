"""Classifies pictures by names, whatever computes the embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from d4c.errors import DataError
from d4c.pictures import on_white, open_picture
from d4c.templates import PHOTO_TEMPLATES, fill_template

BATCH = 64
"""Pictures or prompts that are embedded at once."""

Picture = Image.Image | str | Path
Embed = Callable[[list[Any]], NDArray[np.float32]]
"""Maps pictures or prompts to embeddings [N, D] of any length."""


def classify(
    images: Sequence[Picture],
    labels: Sequence[str],
    *,
    templates: Sequence[str] = PHOTO_TEMPLATES,
    logit_scale: float,
    embed_images: Embed,
    embed_texts: Embed,
) -> NDArray[np.float32]:
    """Return the probabilities of labels for pictures: softmax(logit_scale * cosine) over the labels' embeddings.

    Args:
        images: Files or PIL images; transparent parts are white.
        labels: Names to choose from.
        templates: Prompts with "{}" where a name goes.
        logit_scale: Factor from cosine to logit.
        embed_images: Maps opened pictures to embeddings [N, D].
        embed_texts: Maps prompts to embeddings [N, D].

    Returns:
        Rows [N, L] that add up to one.

    Raises:
        DataError: A picture does not decode, there are no labels or templates, or one is given instead of a list.
    """
    for what, argument in (("images", images), ("labels", labels), ("templates", templates)):
        if isinstance(argument, str) or not isinstance(argument, Sequence):
            raise DataError(f"The {what} are one {type(argument).__name__}, expected a list; put it in brackets.")
    texts = label_embeddings(labels, templates, embed_texts)
    if not images:
        return np.zeros((0, len(labels)), np.float32)
    pictures = unit_rows(_batched(lambda files: embed_images([_opened(file) for file in files]), images))
    return _softmax(logit_scale * pictures @ texts.T)


def label_embeddings(
    labels: Sequence[str], templates: Sequence[str], embed_texts: Embed, batch_size: int = BATCH
) -> NDArray[np.float32]:
    """Embed each label: the normalized mean of its unit embeddings in all templates.

    Args:
        labels: Names, which are put into the templates in lower case.
        templates: Prompts with "{}" where a name goes.
        embed_texts: Maps prompts to embeddings [N, D].
        batch_size: Prompts that are embedded at once.

    Returns:
        Unit vectors [L, D].

    Raises:
        DataError: There are no labels or templates, or one of them is not a string.
    """
    for what, words in (("labels", labels), ("templates", templates)):
        if not words or not all(isinstance(word, str) for word in words):
            raise DataError(f"The {what} are {list(words)!r}, expected at least one, all strings; correct the list.")
    prompts = [fill_template(template, label.lower()) for label in labels for template in templates]
    features = unit_rows(_batched(embed_texts, prompts, batch_size))
    return unit_rows(features.reshape(len(labels), len(templates), -1).mean(1))


def _opened(picture: Picture) -> Image.Image:
    return on_white(picture) if isinstance(picture, Image.Image) else open_picture(picture)


def _batched(embed: Embed, items: Sequence[Any], size: int = BATCH) -> NDArray[np.float32]:
    return np.concatenate([embed(list(items[i : i + size])) for i in range(0, len(items), size)])


def unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale embeddings [N, D] to unit length."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return (powers / powers.sum(-1, keepdims=True)).astype(np.float32)
