"""What the server answers: bodies and parameters of strangers in, plain values out, computed as the library does."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from d4c.errors import DataError
from d4c.pictures import opened_picture
from d4c.reading.json_file import parse_json
from d4c.reading.schema import AnyText, List, Record, check
from d4c.runtime.gallery import Gallery
from d4c.runtime.page import thumbnail
from d4c.runtime.queries import picture_query, word_query
from d4c.runtime.runtime_clip import RuntimeCLIP
from d4c.runtime.serving.limits import LABELS, LETTERS, MATCHES, PIXELS, TEMPLATES, TEXTS
from d4c.templates import PHOTO_TEMPLATES
from d4c.zeroshot.classification import classify

NAME = "The picture"
TEXTS_KIND = Record({"texts": List(AnyText(LETTERS), 1, TEXTS)})
KEPT_PROMPTS = 64
"""Batches of prompts whose embeddings are kept, since most requests have the labels of earlier ones."""


class Kept:
    """The embeddings of the prompts that were asked for last."""

    def __init__(self, encode: Callable[[NDArray[np.int64]], NDArray[np.float32]]) -> None:
        self._encode = encode
        self._rows: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        key = tokens.tobytes()
        with self._lock:
            rows = self._rows.get(key)
        if rows is None:
            rows = self._encode(tokens)
        with self._lock:
            self._rows[key] = rows
            self._rows.move_to_end(key)
            while len(self._rows) > KEPT_PROMPTS:
                self._rows.popitem(last=False)
        return rows


class Answers:
    """The answers of a model.

    Args:
        model: The model.
    """

    def __init__(self, model: RuntimeCLIP) -> None:
        self.model = model
        self._encode_text = Kept(model.encode_text)

    def embed_image(self, body: bytes) -> dict[str, Any]:
        """The embedding of a picture."""
        with _picture(body) as picture:
            pixels = self.model.preprocess(picture)
        return {"embeddings": _numbers(self.model.encode_image(pixels[None]))}

    def embed_text(self, body: bytes) -> dict[str, Any]:
        """The embeddings of texts, given as JSON."""
        advice = 'send {"texts": ["a dog"]}'
        data = parse_json(body, "The body", DataError, advice)
        check(data, TEXTS_KIND, "The body", DataError, advice)
        return {"embeddings": _numbers(self.model.encode_text(self.model.tokenize(data["texts"])))}

    def classify(self, body: bytes, labels: Sequence[str], templates: Sequence[str]) -> dict[str, Any]:
        """The probabilities of labels for a picture."""
        _check_words("labels", labels, LABELS)
        _check_words("templates", templates, TEMPLATES)
        with _picture(body) as picture:
            rows = classify(
                [picture],
                labels,
                templates=templates or PHOTO_TEMPLATES,
                logit_scale=self.model.logit_scale,
                logit_bias=self.model.logit_bias,
                embed_images=lambda pictures: self.model.encode_image([self.model.preprocess(p) for p in pictures]),
                tokenize=self.model.tokenize,
                embed_tokens=self._encode_text,
            )
        return {"probabilities": dict(zip(labels, _numbers(rows)[0], strict=True))}

    def search(self, gallery: Gallery, body: bytes, words: str | None, top: str) -> dict[str, Any]:
        """The pictures of a gallery that match words best, or without words those that are like a picture."""
        if not (top.isascii() and top.isdigit() and len(top) <= 4 and 1 <= int(top) <= MATCHES):
            raise DataError(f"The parameter top is {top[:20]!r}, expected a whole number from 1 to {MATCHES}.")
        if words is None:
            with _picture(body) as picture:
                query = picture_query(self.model, picture, NAME)
        else:
            _check_words("words", [words], 1)
            query = word_query(self.model, words)
        return {"matches": [{"path": m.path, "score": m.score} for m in gallery.search(query, int(top))]}


def small_picture(path: Path) -> bytes:
    """A small JPEG of a picture."""
    with opened_picture(path, NAME, PIXELS) as picture:
        return thumbnail(picture)


@contextmanager
def _picture(body: bytes) -> Iterator[Image.Image]:
    if not body:
        raise DataError("The body is empty, expected a picture; send one, as curl --data-binary @cat.jpg does.")
    with opened_picture(body, NAME, PIXELS) as picture:
        yield picture


def _check_words(what: str, words: Sequence[str], most: int) -> None:
    if len(words) > most:
        raise DataError(f"There are {len(words)} {what}, expected at most {most}; send fewer.")
    if (longest := max(map(len, words), default=0)) > LETTERS:
        raise DataError(f"The {what} have up to {longest} letters, expected at most {LETTERS}; send shorter ones.")


def _numbers(rows: NDArray[np.float32]) -> Any:
    """Rows as lists; JSON has no numbers that are not finite."""
    if not np.isfinite(rows).all():
        raise DataError("The model gives numbers that are not finite for this input; send another one.")
    return rows.tolist()
