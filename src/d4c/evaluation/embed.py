"""Embeds the classes and the images of a dataset with one model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from d4c.errors import D4CError
from d4c.evaluation.batches import pixel_batches
from d4c.evaluation.dataset import Dataset
from d4c.progress import WHOLE, Progress, parts, silent
from d4c.zeroshot.classification import label_embeddings

if TYPE_CHECKING:
    import numpy as np
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
        image: Unit embeddings [N, D] in the order of the dataset's images.
        text: Unit embeddings [C, D] in the order of its classes.
        logit_scale: Factor from cosine to logit.
        seconds: Time that encoding took, decoding of the images included.
    """

    dataset: str
    image: Tensor
    text: Tensor
    logit_scale: float
    seconds: float

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

    def embed_texts(prompts: list[str]) -> NDArray[np.float32]:
        nonlocal done
        tokens = to_device(model, torch.as_tensor(model.tokenize(prompts)))
        features = torch.as_tensor(model.encode_text(tokens)).detach().float().cpu().numpy()
        done += len(prompts)
        progress(done, count_prompts(dataset))
        return features

    return torch.from_numpy(label_embeddings(dataset.classes, dataset.templates, embed_texts, batch_size))


def count_prompts(dataset: Dataset) -> int:
    """Return the number of prompts: every class name in every template."""
    return len(dataset.classes) * len(dataset.templates)


@torch.no_grad()
def embed(model: Encoder, dataset: Dataset, *, batch_size: int = 64, progress: Progress = silent) -> Embeddings:
    """Encode the classes and the images of a dataset.

    Args:
        model: Encodes them.
        dataset: Images and class names.
        batch_size: Images, and prompts, that are encoded at once.
        progress: Called with (thousandths of the prompts and images done, 1000).

    Returns:
        The embeddings of both, on the CPU.

    Raises:
        DataError: An image does not decode.
        D4CError: The model gives numbers that are not finite.
    """
    start = time.perf_counter()
    progress(0, WHOLE)
    progress_of_prompts, progress_of_images = parts(progress, [count_prompts(dataset), len(dataset)])
    text = class_embeddings(model, dataset, batch_size, progress_of_prompts)
    rows_of_batches: list[Tensor] = []
    done = 0
    for pixels in pixel_batches(dataset, model.preprocess, batch_size):
        features = torch.as_tensor(model.encode_image(to_device(model, pixels))).float().cpu()
        rows_of_batches.append(F.normalize(features, dim=-1))
        done += len(pixels)
        progress_of_images(done, len(dataset))
    image = torch.cat(rows_of_batches)
    for kind, rows in (("text", text), ("image", image)):
        not_finite = int((~rows.isfinite().all(1)).sum())
        if not_finite:
            raise D4CError(
                f"{not_finite} of {len(rows)} {kind} embeddings on {dataset.name} are not finite numbers; "
                "use an undamaged checkpoint or more bits."
            )
    return Embeddings(dataset.name, image, text, float(model.logit_scale), time.perf_counter() - start)


def to_device(model: Encoder, batch: Tensor) -> Tensor:
    """Move a batch to the device of the model, if it has one."""
    device = getattr(model, "device", None)
    return batch if device is None else batch.to(device)
