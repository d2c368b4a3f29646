"""Zero-shot classification: class names under prompt templates against images, in one embedding space."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from d4c.errors import D4CError
from d4c.evaluation.datasets import Dataset, pixel_batches
from d4c.progress import Progress
from d4c.templates import fill_template

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


def class_embeddings(model: Encoder, dataset: Dataset, batch_size: int) -> Tensor:
    """One unit vector a class, [C, D]: the normalized mean of the unit embeddings of its name under each template."""
    prompts = [fill_template(template, name.lower()) for name in dataset.classes for template in dataset.templates]
    tokens = torch.as_tensor(model.tokenize(prompts))
    parts = [
        torch.as_tensor(model.encode_text(to_device(model, tokens[i : i + batch_size]))).float().cpu()
        for i in range(0, len(tokens), batch_size)
    ]
    features = F.normalize(torch.cat(parts), dim=-1)
    return F.normalize(features.view(len(dataset.classes), len(dataset.templates), -1).mean(1), dim=-1)


@torch.no_grad()
def embed(model: Encoder, dataset: Dataset, *, batch_size: int = 64, progress: Progress | None = None) -> Embeddings:
    """Encode the classes and the images of a dataset.

    `progress` is called with the number of images done and their total. Raises DataError for an image that does not
    decode and D4CError if the model gives numbers that are not finite.
    """
    start = time.perf_counter()
    text = class_embeddings(model, dataset, batch_size)
    parts: list[Tensor] = []
    done = 0
    for pixels in pixel_batches(dataset, model.preprocess, batch_size):
        features = torch.as_tensor(model.encode_image(to_device(model, pixels))).float().cpu()
        parts.append(F.normalize(features, dim=-1))
        done += len(pixels)
        if progress is not None:
            progress(done, len(dataset))
    image = torch.cat(parts)
    for kind, rows in (("text", text), ("image", image)):
        broken = int((~rows.isfinite().all(1)).sum())
        if broken:
            raise D4CError(
                f"{broken} of {len(rows)} {kind} embeddings on {dataset.name} are not finite numbers; "
                "use an undamaged checkpoint or more bits."
            )
    return Embeddings(dataset.name, image, text, float(model.logit_scale), time.perf_counter() - start)


def to_device(model: Encoder, batch: Tensor) -> Tensor:
    device = getattr(model, "device", None)
    return batch if device is None else batch.to(device)
