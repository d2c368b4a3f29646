"""Batches of pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from d4c import SettingError
from d4c.evaluation.batches import pixel_batches
from d4c.evaluation.dataset import Dataset


def made_up(count: int) -> Dataset:
    return Dataset("made up", ("x",), np.zeros(count, np.int64), lambda i: Image.new("RGB", (1, 1), (i, 0, 0)))


@given(st.integers(1, 20), st.integers(1, 25))
def test_batches_join_to_all_images_in_order(count: int, batch_size: int) -> None:
    batches = list(pixel_batches(made_up(count), lambda image: torch.tensor(np.asarray(image)[0, 0, 0]), batch_size))
    assert torch.cat(batches).tolist() == list(range(count))
    assert all(len(batch) == batch_size for batch in batches[:-1])


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(SettingError, match="batch size is 0"):
        next(pixel_batches(made_up(2), lambda image: torch.zeros(1), 0))
