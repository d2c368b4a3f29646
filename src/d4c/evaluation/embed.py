"""Embeds the images and the texts of a dataset with one model."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from d4c.errors import D4CError, SettingError
from d4c.evaluation.batches import pixel_batches
from d4c.evaluation.dataset import AnyDataset, CaptionedDataset, Dataset, TaggedDataset
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


PATCH_IMAGES = 128
"""Images whose patches are embedded at most, evenly spread: there are hundreds of patches in each."""


@dataclass(frozen=True)
class Embeddings:
    """The images and the texts of a dataset in the embedding space of a model, on the CPU.

    Keep those of a float model to compare many quantized ones with.

    Args:
        dataset: Name of the dataset.
        image: Unit embeddings [N, D] in the order of the dataset's images, without those that were skipped.
        text: Unit embeddings [T, D] in the order of its classes, or of the captions of all images.
        logit_scale: Factor from cosine to logit.
        seconds: Time that encoding took, decoding of the images included.
        skipped: Why an image does not decode, by its index.
        patches: Embeddings [M, P, D] of the patches of some images, if they were asked for.
    """

    dataset: str
    image: Tensor
    text: Tensor
    logit_scale: float
    seconds: float
    skipped: dict[int, str] = field(default_factory=dict)
    patches: Tensor | None = None

    def scores(self) -> Tensor:
        """Return the cosines [N, T] of every image with every text."""
        return self.image @ self.text.T


def text_embeddings(model: Encoder, dataset: AnyDataset, batch_size: int, progress: Progress = silent) -> Tensor:
    """Embed the classes of a dataset (see `d4c.zeroshot.classification.label_embeddings`), or its captions.

    Args:
        model: Encodes the prompts or captions.
        dataset: Class names and templates, or captions.
        batch_size: Prompts or captions that are encoded at once.
        progress: Called with the prompts or captions done and their number.

    Returns:
        One unit vector per class or caption, [T, D].
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

    if isinstance(dataset, CaptionedDataset):
        captions = [caption for of_image in dataset.captions for caption in of_image]
        batches = [captions[start : start + batch_size] for start in range(0, len(captions), batch_size)]
        features = np.concatenate([embed_tokens(np.asarray(model.tokenize(batch))) for batch in batches])
        return F.normalize(torch.from_numpy(features), dim=-1)
    classes, templates = dataset.classes, dataset.templates
    embeddings = label_embeddings(
        classes, templates, model.tokenize, embed_tokens, batch_size, verbatim=dataset.verbatim
    )
    return torch.from_numpy(embeddings)


def count_prompts(dataset: AnyDataset) -> int:
    """Return the number of prompts, every class name in every template, or of captions."""
    return dataset.texts * (len(dataset.templates) if isinstance(dataset, Dataset | TaggedDataset) else 1)


@torch.no_grad()
def embed(
    model: Encoder,
    dataset: AnyDataset,
    *,
    batch_size: int = 64,
    strict: bool = False,
    dense: bool = False,
    decoded: Iterable[Tensor] | None = None,
    progress: Progress = silent,
) -> Embeddings:
    """Encode the texts and the images of a dataset.

    An image that does not decode is skipped, unless nothing of its class is left.

    Args:
        model: Encodes them.
        dataset: Images with class names or captions.
        batch_size: Images, and prompts, that are encoded at once.
        strict: Whether an image that does not decode is an error.
        dense: Also encode the patches of at most `PATCH_IMAGES` images.
        decoded: Preprocessed batches of all images in their order, where they are at hand.
        progress: Called with (thousandths of the prompts and images done, 1000).

    Returns:
        The embeddings of both, on the CPU.

    Raises:
        DataError: An image does not decode and `strict` is set, or none of at least two of a class, or none at all;
            or the classes cannot be told apart (see `label_embeddings`).
        SettingError: Patches are asked for, and the model has none to give.
        D4CError: The model gives numbers that are not finite, or nothing but zeros.
    """
    start = time.perf_counter()
    progress(0, WHOLE)
    progress_of_prompts, progress_of_images = parts(progress, [count_prompts(dataset), len(dataset)])
    # Before the images, since a model without patches should be refused at once.
    patches = _patch_embeddings(model, dataset, batch_size) if dense else None
    text = text_embeddings(model, dataset, batch_size, progress_of_prompts)
    rows_of_batches: list[Tensor] = []
    done = 0
    skipped: dict[int, str] = {}
    if decoded is None:
        decoded = pixel_batches(dataset, model.preprocess, batch_size, None if strict else skipped)
    for pixels in decoded:
        features = torch.as_tensor(model.encode_image(to_device(model, pixels))).float().cpu()
        refuse_flawed(features, "image", dataset)
        rows_of_batches.append(F.normalize(features, dim=-1))
        done += len(pixels)
        progress_of_images(done + len(skipped), len(dataset))
    _check_left(dataset, skipped)
    image = torch.cat(rows_of_batches)
    seconds = time.perf_counter() - start
    return Embeddings(dataset.name, image, text, float(model.logit_scale), seconds, skipped, patches)


def _patch_embeddings(model: Encoder, dataset: AnyDataset, batch_size: int) -> Tensor:
    """Encode the patches [M, P, D] of evenly spread images that decode."""
    encode_patches = getattr(model, "encode_patches", None)
    if encode_patches is None:
        raise SettingError("The model gives no embeddings of patches; evaluate the artifact or the float model.")
    few = dataset.subset(PATCH_IMAGES)
    batches = pixel_batches(few, model.preprocess, batch_size, {})
    return torch.cat([encode_patches(to_device(model, pixels)).float().cpu() for pixels in batches])


def _check_left(dataset: AnyDataset, skipped: dict[int, str]) -> None:
    """Raise DataError if no image is left, or none of a class that had several: that is no accident of one file."""
    if len(skipped) == len(dataset):
        raise none_readable(dataset.name, skipped)
    if not isinstance(dataset, Dataset):
        return
    lost = np.bincount(dataset.labels[list(skipped)], minlength=len(dataset.classes))
    had = np.bincount(dataset.labels, minlength=len(dataset.classes))
    for label in np.flatnonzero((lost == had) & (had > 1)):
        of_class = {i: reason for i, reason in skipped.items() if dataset.labels[i] == label}
        raise none_readable(f"the class {dataset.classes[label]!r} of {dataset.name}", of_class)


def refuse_flawed(features: Tensor, kind: str, dataset: AnyDataset) -> None:
    """Raise D4CError for embeddings without a direction, which would be ranked all the same."""
    if reason := flaw(features.numpy()):
        raise D4CError(
            f"Of a batch of {kind} embeddings on {dataset.name} {reason}; use an undamaged checkpoint or more bits."
        )


def to_device(model: Encoder, batch: Tensor) -> Tensor:
    """Move a batch to the device of the model, if it has one."""
    device = getattr(model, "device", None)
    return batch if device is None else batch.to(device)
