"""Images of a dataset as batches of pixels."""

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
    """Preprocessed images in the order of the dataset; the next batch is decoded while one is used.

    Args:
        dataset: The images.
        preprocess: A picture to pixels [3, S, S].
        batch_size: Images per batch.

    Yields:
        Batches [<= batch_size, 3, S, S].

    Raises:
        SettingError: If the batch size is below 1.
        DataError: If an image does not decode.
    """
    if batch_size < 1:
        raise SettingError(f"The batch size is {batch_size}, expected at least 1; 64 suits most machines.")

    def one(i: int) -> Tensor:
        return torch.as_tensor(preprocess(dataset.image(i)))

    starts = range(0, len(dataset), batch_size)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:

        def begin(start: int) -> list[Future[Tensor]]:
            return [pool.submit(one, i) for i in range(start, min(start + batch_size, len(dataset)))]

        waiting = begin(0)
        try:
            for start in starts:
                current, waiting = waiting, begin(start + batch_size)
                yield torch.stack([future.result() for future in current])
        finally:
            for future in waiting:
                future.cancel()
