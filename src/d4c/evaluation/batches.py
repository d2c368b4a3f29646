"""Turns the images of a dataset into batches of normalized pixels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from d4c.errors import DataError, SettingError
from d4c.evaluation.dataset import PictureSet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor


def pixel_batches(
    dataset: PictureSet,
    preprocess: Callable[[Image], Tensor | NDArray[np.float32] | NDArray[np.uint8]],
    batch_size: int,
    skipped: dict[int, str] | None = None,
) -> Iterator[Tensor]:
    """Preprocess the images of a dataset in its order; the next batch is decoded while one is used.

    Args:
        dataset: The images.
        preprocess: Turns a picture into pixels [3, S, S].
        batch_size: Images per batch.
        skipped: Takes the reason for each image that does not decode, by its index; batches lack these images. Without
            it the first one is an error.

    Yields:
        Batches [<= batch_size, 3, S, S], none of them empty.

    Raises:
        SettingError: The batch size is below 1.
        DataError: An image does not decode, without `skipped`.
    """
    if batch_size < 1:
        raise SettingError(f"The batch size is {batch_size}, expected at least 1; 64 suits most machines.")

    def read_pixels(i: int) -> Tensor | DataError:
        try:
            with dataset.opened(i) as picture:
                return torch.as_tensor(preprocess(picture))
        except DataError as error:
            if skipped is None:
                raise
            return error

    starts = range(0, len(dataset), batch_size)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:

        def submit_batch(start: int) -> dict[int, Future[Tensor | DataError]]:
            return {i: pool.submit(read_pixels, i) for i in range(start, min(start + batch_size, len(dataset)))}

        upcoming = submit_batch(0)
        try:
            for start in starts:
                current, upcoming = upcoming, submit_batch(start + batch_size)
                results = {i: future.result() for i, future in current.items()}
                pixels = [result for result in results.values() if not isinstance(result, DataError)]
                if skipped is not None:
                    skipped |= {i: str(result) for i, result in results.items() if isinstance(result, DataError)}
                if pixels:
                    yield torch.stack(pixels)
        finally:
            for future in upcoming.values():
                future.cancel()
