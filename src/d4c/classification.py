"""Zero-shot classification of pictures by names, whatever computes the embeddings."""

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

Picture = Image.Image | str | Path
Embed = Callable[[list[Any]], NDArray[np.float32]]
"""Pictures or prompts to embeddings [N, D] of any length."""


def classify(
    images: Sequence[Picture],
    labels: Sequence[str],
    *,
    templates: Sequence[str] = PHOTO_TEMPLATES,
    logit_scale: float,
    embed_images: Embed,
    embed_texts: Embed,
) -> NDArray[np.float32]:
    """Probabilities [N, L] of each label for each picture, a file or a PIL image; the rows add up to one.

    softmax(logit_scale * cosine) over the labels' embeddings. Transparent parts of pictures are white. Raises DataError
    for a picture that does not decode, no labels or templates, or a single one in place of a list.
    """
    for what, given in (("images", images), ("labels", labels), ("templates", templates)):
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise DataError(f"the {what} are one {type(given).__name__}, expected a list; put it into brackets.")
    texts = label_embeddings(labels, templates, embed_texts)
    if not images:
        return np.zeros((0, len(labels)), np.float32)
    pictures = _unit(_batched(lambda files: embed_images([_opened(file) for file in files]), images))
    return _softmax(logit_scale * pictures @ texts.T)


def label_embeddings(labels: Sequence[str], templates: Sequence[str], embed_texts: Embed) -> NDArray[np.float32]:
    """Unit vectors [L, D]: the normalized mean of a label's unit embeddings under each template.

    Raises DataError if there are no labels or templates, or other things than strings.
    """
    for what, words in (("labels", labels), ("templates", templates)):
        if not words or not all(isinstance(word, str) for word in words):
            raise DataError(f"the {what} are {list(words)!r}, expected at least one string and nothing else.")
    prompts = [fill_template(template, label.lower()) for label in labels for template in templates]
    return _unit(_unit(_batched(embed_texts, prompts)).reshape(len(labels), len(templates), -1).mean(1))


def _opened(picture: Picture) -> Image.Image:
    return on_white(picture) if isinstance(picture, Image.Image) else open_picture(picture)


def _batched(embed: Embed, items: Sequence[Any]) -> NDArray[np.float32]:
    return np.concatenate([embed(list(items[i : i + BATCH])) for i in range(0, len(items), BATCH)])


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return (powers / powers.sum(-1, keepdims=True)).astype(np.float32)
