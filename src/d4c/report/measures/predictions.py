"""What a float model and quantized ones say about the same pictures, and which tower says something else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from d4c.evaluation.dataset import AnyDataset, CaptionedDataset, Dataset
from d4c.evaluation.embed import Embeddings, embed
from d4c.evaluation.metrics.record import Metrics
from d4c.evaluation.score import score
from d4c.progress import Progress, parts, silent

if TYPE_CHECKING:
    from d4c.models.clip import CLIP

TOWER_ROWS = {"image": "image tower alone", "text": "text tower alone", "both": "both towers"}
"""Which towers are quantized, and what a table calls that."""


@dataclass(frozen=True)
class Predictions:
    """The embeddings of the same pictures and texts by several models.

    Attributes:
        dataset: The pictures, with their classes, tags or captions.
        reference: Embeddings of the float model.
        models: Embeddings of the quantized models, by name.
    """

    dataset: AnyDataset
    reference: Embeddings
    models: dict[str, Embeddings]

    @property
    def kept(self) -> list[int]:
        """The picture of the dataset that each row of embeddings is of; those that do not decode are left out."""
        return [i for i in range(len(self.dataset)) if i not in self.reference.skipped]

    @property
    def texts(self) -> tuple[str, ...]:
        """The classes, or the captions of all pictures, in the order of the embeddings of texts."""
        if isinstance(self.dataset, CaptionedDataset):
            return tuple(caption for captions in self.dataset.captions for caption in captions)
        return self.dataset.classes

    def labels(self, picture: int) -> frozenset[int]:
        """The texts that the dataset gives a picture, as indices."""
        data = self.dataset
        if isinstance(data, CaptionedDataset):
            return frozenset((data.owners == picture).nonzero()[0].tolist())
        if isinstance(data, Dataset):
            return frozenset([int(data.labels[picture])])
        return frozenset(data.tags[picture].nonzero()[0].tolist())

    def name(self, picture: int) -> str:
        """What a picture shows, in the words of the dataset."""
        own = sorted(self.labels(picture))
        if isinstance(self.dataset, CaptionedDataset):
            own = own[:1]
        return ", ".join(self.texts[i] for i in own) or "no class"


@dataclass(frozen=True)
class Accuracy:
    """Zero-shot accuracy of the models on the pictures of a report.

    Attributes:
        dataset: Name of the dataset.
        reference: The float model.
        towers: The quantized models, by name, with the image tower, the text tower or both quantized.
    """

    dataset: str
    reference: Metrics
    towers: dict[str, dict[str, Metrics]]


def predict(
    reference: CLIP, models: Mapping[str, CLIP], dataset: AnyDataset, limit: int, progress: Progress = silent
) -> Predictions:
    """Embed pictures and texts with every model, each class in the first template only, which takes less time.

    Args:
        reference: The float model.
        models: The quantized models, by name.
        dataset: Pictures with classes, tags or captions.
        limit: Largest number of pictures, which are evenly spread over the dataset.
        progress: Called with thousandths of the work.
    """
    few = dataset.subset(limit)
    if not isinstance(few, CaptionedDataset):
        few = replace(few, templates=few.templates[:1])
    first, *others = parts(progress, [1.0] * (1 + len(models)))
    expected = embed(reference, few, progress=first)
    embedded = {
        name: embed(model, few, progress=step) for (name, model), step in zip(models.items(), others, strict=True)
    }
    return Predictions(few, expected, embedded)


def accuracy(predictions: Predictions) -> Accuracy:
    """Measure every model whole and one tower at a time; embeddings of one tower go with float ones of the other."""
    reference, dataset = predictions.reference, predictions.dataset
    towers = {}
    for name, embeddings in predictions.models.items():
        variants = {
            "image": replace(embeddings, text=reference.text),
            "text": replace(embeddings, image=reference.image),
            "both": embeddings,
        }
        towers[name] = {which: score(each, dataset, reference=reference) for which, each in variants.items()}
    return Accuracy(dataset.name, score(reference, dataset), towers)


def guilty(towers: Mapping[str, Metrics]) -> str:
    """Say in one sentence which tower loses more, by the divergence that each causes alone."""
    image, text = (_divergence(towers[which]) for which in ("image", "text"))
    if max(image, text) == 0:
        return "Neither tower loses anything."
    if max(image, text) < 2 * min(image, text):
        return f"Both towers lose about as much ({image:.4f} and {text:.4f} nats)."
    name, other = ("image", "text") if image > text else ("text", "image")
    most, least = max(image, text), min(image, text)
    times = f"{most / least:.0f} times as much as" if least > 0 else "all of it, and nothing is lost by"
    return f"The {name} tower loses more: {most:.4f} nats, {times} the {other} tower ({least:.4f})."


def _divergence(metrics: Metrics) -> float:
    assert metrics.fidelity is not None
    return metrics.fidelity.kl
