"""Embeddings of a dataset: its classes and its images in the space of one model."""

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
    """All that evaluation asks of a model: a float CLIP, a quantized one, or an export in a runtime.

    If it also has `device`, its inputs are moved there. It may answer in NumPy.
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
    """Both sides of a zero-shot problem in a model's embedding space, on the CPU, of unit length.

    `image` is [N, D] in the order of the dataset's images, `text` is [C, D] in the order of its classes; `seconds`
    is what making them took. Keep a float model's to judge many quantized ones.
    """

    dataset: str
    image: Tensor
    text: Tensor
    logit_scale: float
    seconds: float

    def scores(self) -> Tensor:
        """Cosines [N, C] of every image with every class."""
        return self.image @ self.text.T


def class_embeddings(model: Encoder, dataset: Dataset, batch_size: int, progress: Progress = silent) -> Tensor:
    """One unit vector per class, [C, D]; see `d4c.zeroshot.classification.label_embeddings`.

    `progress` is called with the prompts done and their number.
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
    """Class names under templates."""
    return len(dataset.classes) * len(dataset.templates)


@torch.no_grad()
def embed(model: Encoder, dataset: Dataset, *, batch_size: int = 64, progress: Progress = silent) -> Embeddings:
    """Encode the classes and the images of a dataset.

    Args:
        model: What encodes them.
        dataset: Images and class names.
        batch_size: Images, and prompts, that are encoded at once.
        progress: Called with (thousandths of the prompts and images done, 1000).

    Raises:
        DataError: If an image does not decode.
        D4CError: If the model gives numbers that are not finite.
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
        broken = int((~rows.isfinite().all(1)).sum())
        if broken:
            raise D4CError(
                f"{broken} of {len(rows)} {kind} embeddings on {dataset.name} are not finite numbers; "
                "use an undamaged checkpoint or more bits."
            )
    return Embeddings(dataset.name, image, text, float(model.logit_scale), time.perf_counter() - start)


def to_device(model: Encoder, batch: Tensor) -> Tensor:
    """A batch on the device of the model, if it has one."""
    device = getattr(model, "device", None)
    return batch if device is None else batch.to(device)
