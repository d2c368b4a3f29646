"""`score`: the figures of embeddings on a dataset, and differences between two models paired by image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from d4c.errors import DataError
from d4c.evaluation.dataset import AnyDataset, CaptionedDataset, Dataset, TaggedDataset
from d4c.evaluation.embed import Embeddings
from d4c.evaluation.metrics.accuracy import (
    classification_figures,
    label_ranks,
    mean_average_precision,
    tag_figures,
)
from d4c.evaluation.metrics.fidelity import fidelity
from d4c.evaluation.metrics.intervals import Interval, Statistic, bootstrap, mean_of, unchanged, wilson
from d4c.evaluation.metrics.record import Fidelity, Metrics
from d4c.evaluation.metrics.retrieval import caption_ranks, retrieval_figures


def score(embeddings: Embeddings, dataset: AnyDataset, *, reference: Embeddings | None = None) -> Metrics:
    """Compute the metrics of embeddings on a dataset.

    Args:
        embeddings: The result of `embed` on the dataset.
        dataset: The dataset.
        reference: The float model's embeddings of the same dataset, to measure fidelity.

    Returns:
        The figures of the dataset, and fidelity if there is a reference.

    Raises:
        DataError: The embeddings are of another number of images or texts, or the reference is of other data.
    """
    count = len(embeddings.image)
    if count + len(embeddings.skipped) != len(dataset) or len(embeddings.text) != dataset.texts:
        raise DataError(
            f"{count + len(embeddings.skipped)} image and {len(embeddings.text)} text embeddings were given for "
            f"{dataset.name} with {len(dataset)} images and {dataset.texts} texts; embed the model on this dataset."
        )
    return Metrics(
        dataset=dataset.name,
        count=count,
        figures=_figures(embeddings, dataset),
        fidelity=None if reference is None else _fidelity(embeddings, reference, dataset),
        seconds=embeddings.seconds,
        skipped=tuple(embeddings.skipped.values()),
    )


def paired_difference(model: Embeddings, other: Embeddings, dataset: AnyDataset) -> Interval:
    """Return the leading figure of a model minus that of another one on the same images, in points.

    Both figures are computed on the same bootstrap samples of the images, so that what is hard for both cancels out:
    the interval is much narrower than those of the figures.

    Args:
        model: Its embeddings of the dataset.
        other: The other model's, of the same dataset.
        dataset: The dataset.

    Raises:
        DataError: One of the two lacks an image that the other has.
    """
    if model.skipped.keys() != other.skipped.keys():
        raise DataError(
            f"The two models have skipped different images of {dataset.name}, expected the same; embed both again."
        )
    counted, others = (hits(each, dataset) for each in (model, other))
    if counted is not None and others is not None and np.array_equal(counted, others):
        return unchanged(len(counted))
    first, second = (_leading(each, dataset) for each in (model, other))
    return bootstrap({"change": lambda weights: first(weights) - second(weights)}, len(model.image))["change"]


def hits(embeddings: Embeddings, dataset: AnyDataset) -> NDArray[np.bool_] | None:
    """Return whether each image [N] counts for the leading figure; None where that is no share of images."""
    if isinstance(dataset, TaggedDataset):
        return None
    if isinstance(dataset, CaptionedDataset):
        left, owners = _captions(embeddings, dataset)
        return np.asarray(caption_ranks(left.image, left.text, owners) < 1)
    return np.asarray((label_ranks(embeddings.scores(), _labels(embeddings, dataset)) < 1).numpy())


def _figures(embeddings: Embeddings, dataset: AnyDataset) -> dict[str, Interval]:
    if isinstance(dataset, CaptionedDataset):
        left, owners = _captions(embeddings, dataset)
        return retrieval_figures(left.image, left.text, owners)
    if isinstance(dataset, TaggedDataset):
        return tag_figures(embeddings.scores(), _tags(embeddings, dataset))
    return classification_figures(embeddings.scores(), _labels(embeddings, dataset), embeddings.logit_scale)


def _fidelity(model: Embeddings, reference: Embeddings, dataset: AnyDataset) -> Fidelity:
    """Fidelity with what only labels tell: the change, and the figure of each tower alone where both differ."""
    measured = replace(fidelity(model, reference), change=paired_difference(model, reference, dataset))
    if torch.equal(model.image, reference.image) or torch.equal(model.text, reference.text):
        return measured
    return replace(
        measured,
        image_tower=_leading_figure(replace(model, text=reference.text), dataset),
        text_tower=_leading_figure(replace(reference, text=model.text), dataset),
    )


def _leading_figure(embeddings: Embeddings, dataset: AnyDataset) -> Interval:
    """The leading figure in percent with the interval that it has among all figures."""
    counted = hits(embeddings, dataset)
    if counted is None:
        return bootstrap({"leading": _leading(embeddings, dataset)}, len(embeddings.image))["leading"]
    return wilson(int(counted.sum()), len(counted))


def _leading(embeddings: Embeddings, dataset: AnyDataset) -> Statistic:
    """The leading figure in percent as a function of how often each image counts."""
    if isinstance(dataset, TaggedDataset):
        return mean_average_precision(embeddings.scores().numpy(), _tags(embeddings, dataset))
    counted = hits(embeddings, dataset)
    assert counted is not None
    return mean_of(100.0 * counted)


def _labels(embeddings: Embeddings, dataset: Dataset) -> torch.Tensor:
    return torch.from_numpy(np.delete(dataset.labels, list(embeddings.skipped)))


def _tags(embeddings: Embeddings, dataset: TaggedDataset) -> NDArray[np.bool_]:
    return np.delete(dataset.tags, list(embeddings.skipped), axis=0)


def _captions(embeddings: Embeddings, dataset: CaptionedDataset) -> tuple[Embeddings, NDArray[np.int64]]:
    """The embeddings without captions of images that were skipped, and the image of each caption that is left."""
    owners = dataset.owners
    if not embeddings.skipped:
        return embeddings, owners
    left = np.delete(np.arange(len(dataset)), list(embeddings.skipped))
    kept = np.isin(owners, left)
    return replace(embeddings, text=embeddings.text[kept]), np.searchsorted(left, owners[kept])
