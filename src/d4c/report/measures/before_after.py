"""What a user sees: the best captions of a few pictures, and their nearest neighbors, before and after quantization."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from d4c.evaluation.embed import Embeddings
from d4c.report.measures.predictions import Predictions

PICTURES, CHANGED = 8, 4
"""How many pictures are shown, and how many of them at most because their best caption changed."""
BEST, NEIGHBORS, OVERLAP = 5, 5, 10
"""How many captions and neighbors are shown, and how many neighbors the overlap is over."""


@dataclass(frozen=True)
class Caption:
    """A caption of a picture, and its probability among all classes."""

    text: str
    probability: float
    is_label: bool


@dataclass(frozen=True)
class Answer:
    """What one model says about a picture.

    Attributes:
        captions: The best captions, the most probable first.
        neighbors: The nearest other pictures, as indices into the dataset, the nearest first.
    """

    captions: tuple[Caption, ...]
    neighbors: tuple[int, ...]


@dataclass(frozen=True)
class Example:
    """A picture, and what each model says about it; the float model comes first.

    Attributes:
        picture: Its index in the dataset.
        label: What it shows, in the words of the dataset.
        answers: What each model says, by name.
    """

    picture: int
    label: str
    answers: dict[str, Answer]

    def is_changed(self, name: str, neighbor: int) -> bool:
        """Whether a neighbor that one model lists is not listed by the float model, or by no other model for float."""
        expected, *others = self.answers.values()
        if self.answers[name] is not expected:
            return neighbor not in expected.neighbors
        return any(neighbor not in other.neighbors for other in others)


@dataclass(frozen=True)
class Examples:
    """A few pictures before and after, and how often that is as before over all pictures.

    Attributes:
        pictures: Number of pictures that were compared.
        same_caption: Share of them with the same best caption, by quantized model.
        overlap: Mean share of the ten nearest neighbors that are the same, by quantized model.
        examples: The pictures that are shown.
    """

    pictures: int
    same_caption: dict[str, float]
    overlap: dict[str, float]
    examples: tuple[Example, ...]


def examples(predictions: Predictions) -> Examples:
    """Compare captions and neighbors of all pictures, and choose some to show.

    Half of them are those whose best caption a quantized model changes, if there are any, evenly spread; the others
    are evenly spread over all pictures.
    """
    expected = predictions.reference
    best = expected.scores().argmax(1)
    changed = {name: each.scores().argmax(1) != best for name, each in predictions.models.items()}
    neighbors = nearest(expected.image, OVERLAP)
    overlap = {name: shared(neighbors, nearest(each.image, OVERLAP)) for name, each in predictions.models.items()}
    any_changed = torch.stack(list(changed.values())).any(0)
    shown = _chosen(any_changed)
    return Examples(
        pictures=len(best),
        same_caption={name: 1 - float(each.double().mean()) for name, each in changed.items()},
        overlap=overlap,
        examples=tuple(_example(predictions, row) for row in shown),
    )


def nearest(features: Tensor, count: int) -> Tensor:
    """The rows nearest to each row by cosine, itself left out: [N, min(count, N - 1)]."""
    cosines = (features @ features.T).fill_diagonal_(-torch.inf)
    return cosines.topk(min(count, len(features) - 1), 1).indices


def shared(first: Tensor, second: Tensor) -> float:
    """Mean share of the entries of each row [N, K] that the same row of another table holds too; 1 for no entries."""
    if not first.shape[1]:
        return 1.0
    return float((first[:, :, None] == second[:, None, :]).any(2).double().mean())


def _chosen(changed: Tensor) -> list[int]:
    """Rows to show: some that changed, then others, each evenly spread."""
    first = _spread(changed.nonzero()[:, 0].tolist(), CHANGED)
    rest = _spread([row for row in range(len(changed)) if row not in first], PICTURES - len(first))
    return sorted(first) + sorted(rest)


def _spread(rows: list[int], count: int) -> list[int]:
    return rows if len(rows) <= count else [rows[k * len(rows) // count] for k in range(count)]


def _example(predictions: Predictions, row: int) -> Example:
    picture = predictions.kept[row]
    models = {"float": predictions.reference, **predictions.models}
    return Example(
        picture=picture,
        label=predictions.name(picture),
        answers={name: _answer(each, row, predictions) for name, each in models.items()},
    )


def _answer(embeddings: Embeddings, row: int, predictions: Predictions) -> Answer:
    texts, kept = predictions.texts, predictions.kept
    labels = predictions.labels(kept[row])
    probabilities = (embeddings.logit_scale * (embeddings.image[row] @ embeddings.text.T)).softmax(0)
    top = probabilities.topk(min(BEST, len(texts)))
    cosines = embeddings.image @ embeddings.image[row]
    cosines[row] = -torch.inf
    near = cosines.topk(min(NEIGHBORS, len(cosines) - 1)).indices.tolist()
    return Answer(
        captions=tuple(
            Caption(texts[i], p, i in labels) for p, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        ),
        neighbors=tuple(kept[i] for i in near),
    )
