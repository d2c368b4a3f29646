"""Embeds the classes and the images of a dataset with one model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from d4c.errors import D4CError
from d4c.evaluation.batches import pixel_batches
from d4c.evaluation.dataset import Dataset
from d4c.picture_files import none_readable
from d4c.progress import WHOLE, Progress, parts, silent
from d4c.zeroshot.classification import label_embeddings
from d4c.zeroshot.flaws import flaw

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image


class Encoder(Protocol):
    """What evaluation asks of a model: a float CLIP, a quantized one, or an export in a runtime.

    If it also has `device`, its inputs are moved there. Its results are tensors or NumPy arrays.
    """

    @property
    def logit_scale(self) -> float: ...

    @property
    def image_size(self) -> int: ...

    def encode_image(self, pixels: Tensor) -> Tensor | NDArray[np.float32]: ...

    def encode_text(self, tokens: Tensor) -> Tensor | NDArray[np.float32]: ...

    def preprocess(self, image: Image) -> Tensor | NDArray[np.float32]: ...

    def tokenize(self, texts: Sequence[str]) -> Tensor | NDArray[np.int64]: ...


@dataclass(frozen=True)
class Embeddings:
    """The images and the classes of a dataset in the embedding space of a model, on the CPU.

    Keep those of a float model to compare many quantized ones with.

    Args:
        dataset: Name of the dataset.
        image: Unit embeddings [N, D] in the order of the dataset's images, without those that were skipped.
        text: Unit embeddings [C, D] in the order of its classes.
        logit_scale: Factor from cosine to logit.
        seconds: Time that encoding took, decoding of the images included.
        skipped: Why an image does not decode, by its index.
    """

    dataset: str
    image: Tensor
    text: Tensor
    logit_scale: float
    seconds: float
    skipped: dict[int, str] = field(default_factory=dict)

    def scores(self) -> Tensor:
        """Return the cosines [N, C] of every image with every class."""
        return self.image @ self.text.T


def class_embeddings(model: Encoder, dataset: Dataset, batch_size: int, progress: Progress = silent) -> Tensor:
    """Embed the classes of a dataset; see `d4c.zeroshot.classification.label_embeddings`.

    Args:
        model: Encodes the prompts.
        dataset: Class names and templates.
        batch_size: Prompts that are encoded at once.
        progress: Called with the prompts done and their number.

    Returns:
        One unit vector per class, [C, D].
    """
    done = 0

    def embed_tokens(ids: NDArray[np.int64]) -> NDArray[np.float32]:
        nonlocal done
        tokens = to_device(model, torch.from_numpy(ids))
        features = torch.as_tensor(model.encode_text(tokens)).detach().float().cpu()
        refuse_flawed(features, "text", dataset)
        done += len(ids)
        progress(done, count_prompts(dataset))
        return features.numpy()

    classes, templates = dataset.classes, dataset.templates
    return torch.from_numpy(label_embeddings(classes, templates, model.tokenize, embed_tokens, batch_size))


def count_prompts(dataset: Dataset) -> int:
    """Return the number of prompts: every class name in every template."""
    return len(dataset.classes) * len(dataset.templates)


@torch.no_grad()
def embed(
    model: Encoder, dataset: Dataset, *, batch_size: int = 64, strict: bool = False, progress: Progress = silent
) -> Embeddings:
    """Encode the classes and the images of a dataset.

    An image that does not decode is skipped, unless nothing of its class is left.

    Args:
        model: Encodes them.
        dataset: Images and class names.
        batch_size: Images, and prompts, that are encoded at once.
        strict: Whether an image that does not decode is an error.
        progress: Called with (thousandths of the prompts and images done, 1000).

    Returns:
        The embeddings of both, on the CPU.

    Raises:
        DataError: An image does not decode and `strict` is set, or none of at least two of a class, or none at all;
            or the classes cannot be told apart (see `label_embeddings`).
        D4CError: The model gives numbers that are not finite, or nothing but zeros.
    """
    start = time.perf_counter()
    progress(0, WHOLE)
    progress_of_prompts, progress_of_images = parts(progress, [count_prompts(dataset), len(dataset)])
    text = class_embeddings(model, dataset, batch_size, progress_of_prompts)
    rows_of_batches: list[Tensor] = []
    done = 0
    skipped: dict[int, str] = {}
    for pixels in pixel_batches(dataset, model.preprocess, batch_size, None if strict else skipped):
        features = torch.as_tensor(model.encode_image(to_device(model, pixels))).float().cpu()
        refuse_flawed(features, "image", dataset)
        rows_of_batches.append(F.normalize(features, dim=-1))
        done += len(pixels)
        progress_of_images(done + len(skipped), len(dataset))
    _check_left(dataset, skipped)
    image = torch.cat(rows_of_batches)
    return Embeddings(dataset.name, image, text, float(model.logit_scale), time.perf_counter() - start, skipped)


def _check_left(dataset: Dataset, skipped: dict[int, str]) -> None:
    """Raise DataError if no image is left, or none of a class that had several: that is no accident of one file."""
    if len(skipped) == len(dataset):
        raise none_readable(dataset.name, skipped)
    lost = np.bincount(dataset.labels[list(skipped)], minlength=len(dataset.classes))
    had = np.bincount(dataset.labels, minlength=len(dataset.classes))
    for label in np.flatnonzero((lost == had) & (had > 1)):
        of_class = {i: reason for i, reason in skipped.items() if dataset.labels[i] == label}
        raise none_readable(f"the class {dataset.classes[label]!r} of {dataset.name}", of_class)


def refuse_flawed(features: Tensor, kind: str, dataset: Dataset) -> None:
    """Raise D4CError for embeddings without a direction, which would be ranked all the same."""
    if reason := flaw(features.numpy()):
        raise D4CError(
            f"Of a batch of {kind} embeddings on {dataset.name} {reason}; use an undamaged checkpoint or more bits."
        )


def to_device(model: Encoder, batch: Tensor) -> Tensor:
    """Move a batch to the device of the model, if it has one."""
    device = getattr(model, "device", None)
    return batch if device is None else batch.to(device)
