"""`evaluate`: zero-shot accuracy of a model, and its closeness to a float model."""

from __future__ import annotations

import torch

from d4c.errors import DataError
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.embed import Embeddings, Encoder, embed
from d4c.evaluation.fidelity import fidelity
from d4c.evaluation.load_dataset import load_dataset
from d4c.evaluation.metrics import Metrics, label_ranks, wilson
from d4c.progress import Progress


def score(embeddings: Embeddings, dataset: Dataset, *, reference: Embeddings | None = None) -> Metrics:
    """Accuracy of embeddings on a dataset.

    Args:
        embeddings: What `embed` made of the dataset.
        dataset: The dataset.
        reference: The float model's embeddings of the same dataset, to measure fidelity.

    Raises:
        DataError: If the embeddings are of another number of images or classes.
    """
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
    """Top-1 and top-5 zero-shot accuracy with 95 % Wilson intervals, and fidelity to a float model.

    Args:
        model: Anything that encodes images and texts: a CLIP, a quantized one, an export in a runtime.
        dataset: A spec of `load_dataset` or a `Dataset`.
        reference: The float model or, to encode it only once for many variants, what `embed` made of it on the same
            images.
        batch_size: Images that are encoded at once.
        limit: Use that many images, evenly spread over the set (see `Dataset.subset`).
        progress: Called with the images done and their total, the reference's included.

    Raises:
        SettingError: If the spec, the limit or the batch size is not valid.
        DataError: If the data cannot be used, or the reference is of other data.
    """
    data = load_dataset(dataset)
    if limit is not None:
        data = data.subset(limit)
    size = len(data)
    if reference is None or isinstance(reference, Embeddings):
        of_reference, steps = reference, size
    else:
        steps = 2 * size
        of_reference = embed(reference, data, batch_size=batch_size, progress=shifted(progress, 0, steps))
    embeddings = embed(model, data, batch_size=batch_size, progress=shifted(progress, steps - size, steps))
    return score(embeddings, data, reference=of_reference)


def shifted(progress: Progress | None, offset: int, steps: int) -> Progress | None:
    """The part of a longer progress of `steps` that begins after `offset`."""
    return None if progress is None else lambda done, _: progress(offset + done, steps)
