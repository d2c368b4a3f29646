"""`evaluate`: zero-shot accuracy of a model, and its closeness to a float model."""

from __future__ import annotations

import torch

from d4c.errors import DataError
from d4c.evaluation.datasets import Dataset, load_dataset
from d4c.evaluation.fidelity import fidelity
from d4c.evaluation.metrics import Metrics, label_ranks, wilson
from d4c.evaluation.zeroshot import Embeddings, Encoder, embed
from d4c.progress import Progress


def score(embeddings: Embeddings, dataset: Dataset, *, reference: Embeddings | None = None) -> Metrics:
    """Accuracy of embeddings on the dataset they were made from, and fidelity if the float model's are given."""
    if len(embeddings.image) != len(dataset) or len(embeddings.text) != len(dataset.classes):
        raise DataError(
            f"{len(embeddings.image)} image and {len(embeddings.text)} class embeddings were given for {dataset.name} "
            f"with {len(dataset)} images and {len(dataset.classes)} classes; embed the model on this dataset."
        )
    ranks = label_ranks(embeddings.scores(), torch.from_numpy(dataset.labels))
    count = len(dataset)
    return Metrics(
        dataset=dataset.name,
        count=count,
        top1=wilson(int((ranks < 1).sum()), count),
        top5=wilson(int((ranks < 5).sum()), count),
        fidelity=None if reference is None else fidelity(embeddings, reference),
        seconds=embeddings.seconds,
    )


def evaluate(
    model: Encoder,
    dataset: str | Dataset = "demo",
    *,
    reference: Encoder | Embeddings | None = None,
    batch_size: int = 64,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Metrics:
    """Top-1 and top-5 zero-shot accuracy with 95 % Wilson intervals; with `reference`, fidelity to that float model.

    `dataset` is a spec of `load_dataset` or a `Dataset`. `limit` takes that many images, evenly spread over the set
    (see `Dataset.subset`). `reference` is the float model or, to encode it only once for many variants, what `embed`
    made of it on the same images. `progress` is called with the images done and their total, the reference's
    included.
    """
    data = load_dataset(dataset)
    if limit is not None:
        data = data.subset(limit)
    size = len(data)
    if reference is None or isinstance(reference, Embeddings):
        known, total = reference, size
    else:
        total = 2 * size
        known = embed(reference, data, batch_size=batch_size, progress=shifted(progress, 0, total))
    own = embed(model, data, batch_size=batch_size, progress=shifted(progress, total - size, total))
    return score(own, data, reference=known)


def shifted(progress: Progress | None, offset: int, total: int) -> Progress | None:
    """The part of a longer progress that begins behind `offset`."""
    return None if progress is None else lambda done, _: progress(offset + done, total)
