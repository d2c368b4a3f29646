"""`evaluate`: zero-shot accuracy of a model, and its fidelity to a float model."""

from __future__ import annotations

from os import PathLike

import numpy as np
import torch
from torch import nn

from d4c.errors import DataError, SettingError
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.embed import Embeddings, Encoder, embed
from d4c.evaluation.fidelity import fidelity
from d4c.evaluation.load_dataset import load_dataset
from d4c.evaluation.metrics import Metrics, label_ranks, wilson
from d4c.progress import WHOLE, Report, parts, reporting
from d4c.storage.hashing import tensors_hash


def score(embeddings: Embeddings, dataset: Dataset, *, reference: Embeddings | None = None) -> Metrics:
    """Compute the metrics of embeddings on a dataset.

    Args:
        embeddings: The result of `embed` on the dataset.
        dataset: The dataset.
        reference: The float model's embeddings of the same dataset, to measure fidelity.

    Returns:
        Accuracies, and fidelity if there is a reference.

    Raises:
        DataError: The embeddings are of another number of images or classes, or the reference is of other data.
    """
    count = len(embeddings.image)
    if count + len(embeddings.skipped) != len(dataset) or len(embeddings.text) != len(dataset.classes):
        raise DataError(
            f"{count + len(embeddings.skipped)} image and {len(embeddings.text)} class embeddings were given for "
            f"{dataset.name} with {len(dataset)} images and {len(dataset.classes)} classes; embed the model on this "
            "dataset."
        )
    labels = np.delete(dataset.labels, list(embeddings.skipped))
    ranks = label_ranks(embeddings.scores(), torch.from_numpy(labels))
    return Metrics(
        dataset=dataset.name,
        count=count,
        top1=wilson(int((ranks < 1).sum()), count),
        top5=wilson(int((ranks < 5).sum()), count),
        fidelity=None if reference is None else fidelity(embeddings, reference),
        seconds=embeddings.seconds,
        skipped=tuple(embeddings.skipped.values()),
    )


def evaluate(
    model: Encoder,
    dataset: str | Dataset = "demo",
    *,
    reference: Encoder | Embeddings | None = None,
    batch_size: int = 64,
    limit: int | None = None,
    strict: bool = False,
    progress: Report = "auto",
) -> Metrics:
    """Measure top-1 and top-5 zero-shot accuracy with 95 % Wilson intervals, and fidelity to a float model.

    Args:
        model: Anything that encodes images and texts: a CLIP, a quantized one, an export in a runtime.
        dataset: A spec of `load_dataset` or a `Dataset`.
        reference: The float model or, to encode it only once for many variants, the result of `embed` on the same
            images.
        batch_size: Images that are encoded at once.
        limit: Use that many images, evenly spread over the set (see `Dataset.subset`).
        strict: Whether an image that does not decode is an error; otherwise it is left out and named in the metrics.
        progress: Called with (thousandths done, 1000); "auto" shows a bar on a terminal, None shows nothing.

    Returns:
        Accuracies, and fidelity if there is a reference.

    Raises:
        SettingError: The spec, the limit or the batch size is not valid, or the reference is another model than the
            one that was quantized.
        DataError: The data cannot be used, or the reference is of other data.
    """
    if isinstance(model, str | PathLike):
        raise SettingError(
            f"The model is the name {str(model)!r}, expected a loaded model; pass what d4c.load or d4c.load_quantized "
            "returns."
        )
    refuse_other_model(model, reference)
    data = load_dataset(dataset)
    if limit is not None:
        data = data.subset(limit)
    encodes_reference = reference is not None and not isinstance(reference, Embeddings)
    with reporting(progress, f"evaluate on {data.name}") as report:
        report(0, WHOLE)
        reference_progress, model_progress = parts(report, [float(encodes_reference), 1.0])
        if reference is not None and not isinstance(reference, Embeddings):
            reference = embed(reference, data, batch_size=batch_size, strict=strict, progress=reference_progress)
        embeddings = embed(model, data, batch_size=batch_size, strict=strict, progress=model_progress)
    return score(embeddings, data, reference=reference)


def refuse_other_model(model: object, reference: object) -> None:
    """Raise SettingError for a float model as reference that is not the one that a quantized model was made from."""
    origin = getattr(model, "origin", None)
    if origin is None or not isinstance(reference, nn.Module) or getattr(reference, "origin", None) is not None:
        return
    weights = reference.state_dict()
    # The hash is of float32; a model that was cast may be the same.
    if any(value.is_floating_point() and value.dtype != torch.float32 for value in weights.values()):
        return
    if tensors_hash(weights) != origin:
        names = [repr(getattr(each, "name", type(each).__name__)) for each in (reference, model)]
        raise SettingError(
            f"The reference {names[0]} does not have the weights that {names[1]} was made from "
            f"(SHA-256 {origin[:16]}...); name that float model, or leave the reference out."
        )
