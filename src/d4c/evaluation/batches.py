"""Turns the images of a dataset into batches of normalized pixels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch
from PIL import Image

from d4c.errors import SettingError
from d4c.evaluation.dataset import Dataset

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


def pixel_batches(
    dataset: Dataset, preprocess: Callable[[Image.Image], Tensor | NDArray[np.float32]], batch_size: int
) -> Iterator[Tensor]:
    """Preprocess the images of a dataset in its order; the next batch is decoded while one is used.

    Args:
        dataset: The images.
        preprocess: Turns a picture into pixels [3, S, S].
        batch_size: Images per batch.

    Yields:
        Batches [<= batch_size, 3, S, S].

    Raises:
        SettingError: The batch size is below 1.
        DataError: An image does not decode.
    """
    if batch_size < 1:
        raise SettingError(f"The batch size is {batch_size}, expected at least 1; 64 suits most machines.")

    def read_pixels(i: int) -> Tensor:
        return torch.as_tensor(preprocess(dataset.image(i)))

    starts = range(0, len(dataset), batch_size)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:

        def submit_batch(start: int) -> list[Future[Tensor]]:
            return [pool.submit(read_pixels, i) for i in range(start, min(start + batch_size, len(dataset)))]

        upcoming = submit_batch(0)
        try:
            for start in starts:
                current, upcoming = upcoming, submit_batch(start + batch_size)
                yield torch.stack([future.result() for future in current])
        finally:
            for future in upcoming:
                future.cancel()
