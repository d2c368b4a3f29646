"""Embeds a set of images for every comparison in embedding space."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from d4c.errors import DataError
from d4c.evaluation.embed import Encoder, to_device
from d4c.progress import Progress, silent

BATCH = 32
"""Images that go through a tower at once."""


@torch.no_grad()
def unit_features(model: Encoder, pixels: Tensor, progress: Progress = silent) -> Tensor:
    """Encode images and scale their embeddings to unit length.

    Args:
        model: Encodes the images.
        pixels: Normalized pixels [N, 3, S, S].
        progress: Called with the images done and their number.

    Returns:
        Unit embeddings [N, D], float32 on the CPU.

    Raises:
        DataError: An embedding is not finite.
    """
    rows: list[Tensor] = []
    done = 0
    for batch in pixels.split(BATCH):
        rows.append(torch.as_tensor(model.encode_image(to_device(model, batch))).float().cpu())
        done += len(batch)
        progress(done, len(pixels))
    features = F.normalize(torch.cat(rows), dim=-1)
    not_finite = int((~features.isfinite().all(1)).sum())
    if not_finite:
        raise DataError(
            f"{not_finite} of {len(features)} image embeddings are not finite numbers; use an undamaged checkpoint."
        )
    return features


@contextmanager
def removed_after(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove hooks when the block ends, however it ends."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
