"""Classifies pictures by names, whatever computes the embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from d4c.errors import DataError
from d4c.pictures import Picture, open_picture
from d4c.templates import PHOTO_TEMPLATES, check_template, fill_template
from d4c.zeroshot.flaws import flaw

BATCH = 64
"""Pictures or prompts that are embedded at once."""

EmbedImages = Callable[[Iterable[Image.Image]], NDArray[np.float32]]
"""Maps pictures, which are opened one at a time, to embeddings [N, D] of any length."""
Tokenize = Callable[[list[str]], ArrayLike]
"""Maps prompts to token ids [N, L]."""
EmbedTokens = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Maps token ids [N, L] to embeddings [N, D] of any length."""


def classify(
    images: Sequence[Picture],
    labels: Sequence[str],
    *,
    templates: Sequence[str] = PHOTO_TEMPLATES,
    logit_scale: float,
    logit_bias: float | None = None,
    embed_images: EmbedImages,
    tokenize: Tokenize,
    embed_tokens: EmbedTokens,
) -> NDArray[np.float32]:
    """Return the probabilities of labels for pictures: softmax(logit_scale * cosine) over the labels' embeddings.

    For a model that was trained on single pairs, they are sigmoid(logit_scale * cosine + logit_bias).

    Args:
        images: Paths, encoded bytes, open files, arrays or Pillow images; transparent parts are white.
        labels: Names to choose from.
        templates: Prompts with "{}" where a name goes.
        logit_scale: Factor from cosine to logit.
        logit_bias: What is added to the logit of a single pair; None for a softmax over all labels.
        embed_images: Maps opened pictures to embeddings [N, D].
        tokenize: Maps prompts to token ids [N, L].
        embed_tokens: Maps token ids to embeddings [N, D].

    Returns:
        Probabilities [N, L]; without a bias, rows add up to one.

    Raises:
        DataError: A picture does not decode, one thing is given instead of a list, or `label_embeddings` refuses the
            labels or templates.
    """
    for what, argument in (("images", images), ("labels", labels), ("templates", templates)):
        if isinstance(argument, str | bytes) or not isinstance(argument, Sequence):
            raise DataError(f"The {what} are one {type(argument).__name__}, expected a list; put it in brackets.")
    texts = label_embeddings(labels, templates, tokenize, embed_tokens)
    if not images:
        return np.zeros((0, len(labels)), np.float32)
    batches = [embed_images(_opened(images, start, start + BATCH)) for start in range(0, len(images), BATCH)]
    logits = logit_scale * _directions(np.concatenate(batches), "images") @ texts.T
    return _softmax(logits) if logit_bias is None else sigmoid(logits + logit_bias)


def label_embeddings(
    labels: Sequence[str],
    templates: Sequence[str],
    tokenize: Tokenize,
    embed_tokens: EmbedTokens,
    batch_size: int = BATCH,
    verbatim: bool = False,
) -> NDArray[np.float32]:
    """Embed each label: the normalized mean of its unit embeddings in all templates.

    Args:
        labels: Names, which are put into the templates in lower case.
        templates: Prompts with "{}" where a name goes.
        tokenize: Maps prompts to token ids [N, L].
        embed_tokens: Maps token ids to embeddings [N, D].
        batch_size: Prompts that are embedded at once.
        verbatim: Whether names and templates are used letter by letter, even names that are the same, as figures do
            that compare with published ones.

    Returns:
        Unit vectors [L, D].

    Raises:
        DataError: There are no labels or templates, one of them is not a string, a label is blank, a template has no
            "{}", or the model cannot tell two labels apart, since their token ids are the same.
    """
    _check_words(labels, templates)
    fill = _fill_verbatim if verbatim else _fill_fluently
    tokens = np.asarray(tokenize([fill(template, label) for label in labels for template in templates]))
    if not verbatim:
        _check_distinct(labels, tokens.reshape(len(labels), -1))
    batches = [embed_tokens(tokens[start : start + batch_size]) for start in range(0, len(tokens), batch_size)]
    features = _directions(np.concatenate(batches), "prompts")
    return unit_rows(features.reshape(len(labels), len(templates), -1).mean(1))


def _fill_verbatim(template: str, label: str) -> str:
    return template.replace("{}", label)


def _fill_fluently(template: str, label: str) -> str:
    return fill_template(template, label.lower())


def _check_words(labels: Sequence[str], templates: Sequence[str]) -> None:
    for what, words in (("labels", labels), ("templates", templates)):
        if not words or not all(isinstance(word, str) for word in words):
            raise DataError(f"The {what} are {list(words)!r}, expected at least one, all strings; correct the list.")
    for i, label in enumerate(labels):
        if not label.strip():
            raise DataError(f"Label {i} of {len(labels)} is blank, expected the name of a class; name it.")
    for template in templates:
        check_template(template)


def _check_distinct(labels: Sequence[str], tokens: NDArray[Any]) -> None:
    """Raise DataError for two labels with the same token ids in all templates."""
    seen: dict[bytes, int] = {}
    for i, row in enumerate(tokens):
        first = seen.setdefault(row.tobytes(), i)
        if first != i:
            raise DataError(
                f"The labels {labels[first][:40]!r} ({first}) and {labels[i][:40]!r} ({i}) are the same to the model, "
                "which reads them in lower case and cuts long prompts; rename one or leave it out."
            )


def _opened(images: Sequence[Picture], start: int, stop: int) -> Iterator[Image.Image]:
    for i, image in enumerate(images[start:stop], start):
        yield open_picture(image, str(image) if isinstance(image, str | PathLike) else f"Picture {i}")


def unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale embeddings [N, D] to unit length."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _directions(rows: NDArray[np.float32], of: str) -> NDArray[np.float32]:
    """Scale embeddings [N, D] to unit length; raises DataError for those that have no direction."""
    if reason := flaw(rows):
        raise DataError(
            f"Of the embeddings of {of} {reason}, expected a direction of each; use an undamaged checkpoint."
        )
    return unit_rows(rows)


def sigmoid(logits: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return 1 / (1 + exp(-x)), which no logit makes overflow."""
    return (0.5 * (1 + np.tanh(0.5 * logits))).astype(np.float32)


def _softmax(logits: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return (powers / powers.sum(-1, keepdims=True)).astype(np.float32)
