"""`evaluate`: figures of a model on a dataset, and its fidelity to a float model."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from typing import Literal

import torch
from torch import nn

from d4c.errors import SettingError
from d4c.evaluation.dataset import AnyDataset
from d4c.evaluation.embed import Embeddings, Encoder, embed
from d4c.evaluation.load_dataset import load_pictures
from d4c.evaluation.metrics.record import Metrics
from d4c.evaluation.score import score
from d4c.progress import WHOLE, Report, parts, reporting
from d4c.storage.hashing import tensors_hash

Towers = Literal["both", "image", "text"]
"""The towers of a model to judge; the float model's take the place of the other one."""
TOWERS = ("image", "text")


def evaluate(
    model: Encoder,
    dataset: str | AnyDataset = "demo",
    *,
    reference: Encoder | Embeddings | None = None,
    towers: Towers = "both",
    batch_size: int = 64,
    limit: int | None = None,
    strict: bool = False,
    dense: bool = False,
    progress: Report = "auto",
) -> Metrics:
    """Measure zero-shot accuracy or retrieval with 95 % intervals, and fidelity to a float model.

    Args:
        model: Anything that encodes images and texts: a CLIP, a quantized one, an export in a runtime.
        dataset: A spec of `load_pictures`, or a `Dataset`, `TaggedDataset` or `CaptionedDataset`.
        reference: The float model or, to encode it only once for many variants, the result of `embed` on the same
            images.
        towers: "image" or "text" to judge only that tower, with the reference's in place of the other.
        batch_size: Images that are encoded at once.
        limit: Use that many images, evenly spread over the set (see `Dataset.subset`).
        strict: Whether an image that does not decode is an error; otherwise it is left out and named in the metrics.
        dense: Also compare the patches of some images, which takes a reference.
        progress: Called with (thousandths done, 1000); "auto" shows a bar on a terminal, None shows nothing.

    Returns:
        The figures of the dataset, and fidelity if there is a reference.

    Raises:
        SettingError: The spec, the limit or the batch size is not valid, the reference is another model than the one
            that was quantized, or it is missing where it is needed.
        DataError: The data cannot be used, or the reference is of other data.
    """
    if isinstance(model, str | PathLike):
        raise SettingError(
            f"The model is the name {str(model)!r}, expected a loaded model; pass what d4c.load or d4c.load_quantized "
            "returns."
        )
    if reference is None and (towers != "both" or dense):
        raise SettingError(
            "One tower, or patches, are compared with a float model, and there is none; give it as reference "
            "(--reference)."
        )
    refuse_lone_tower(model)
    refuse_other_model(model, reference)
    data = load_pictures(dataset)
    if limit is not None:
        data = data.subset(limit)
    encodes_reference = reference is not None and not isinstance(reference, Embeddings)
    with reporting(progress, f"evaluate on {data.name}") as report:
        report(0, WHOLE)
        reference_progress, model_progress = parts(report, [float(encodes_reference), 1.0])
        if reference is not None and not isinstance(reference, Embeddings):
            reference = embed(
                reference, data, batch_size=batch_size, strict=strict, dense=dense, progress=reference_progress
            )
        embeddings = embed(model, data, batch_size=batch_size, strict=strict, dense=dense, progress=model_progress)
    if reference is not None and towers != "both":
        embeddings = with_tower(embeddings, reference, towers)
    return score(embeddings, data, reference=reference)


def with_tower(model: Embeddings, reference: Embeddings, tower: Literal["image", "text"]) -> Embeddings:
    """Return the embeddings of one tower of a model beside those of the reference's other tower."""
    if tower == "image":
        return replace(model, text=reference.text)
    return replace(model, image=reference.image, patches=reference.patches)


def _image_size(model: object) -> int | None:
    """The side of the pictures that a model reads; None if it reads none, or does not say."""
    return getattr(model, "image_size", None) if "image" in getattr(model, "towers", ()) else None


def refuse_lone_tower(model: object) -> None:
    """Raise SettingError for a model of one tower, which has nothing to compare its embeddings with."""
    towers = getattr(model, "towers", TOWERS)
    if len(towers) == 1:
        raise SettingError(
            f"Accuracy takes both towers, and {getattr(model, 'name', 'the model')!r} is the {towers[0]} tower alone; "
            "compare its outputs with those of the float tower (d4c.evaluate_outputs, or --reference)."
        )


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
        size = _image_size(model)
        resized = f" with image_size={size} (--image-size {size})" if size and size != _image_size(reference) else ""
        names = [repr(getattr(each, "name", type(each).__name__)) for each in (reference, model)]
        raise SettingError(
            f"The reference {names[0]} does not have the weights that {names[1]} was made from "
            f"(SHA-256 {origin[:16]}...); name that float model{resized}, or leave the reference out."
        )
