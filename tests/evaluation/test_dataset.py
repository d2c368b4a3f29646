"""A dataset and its subsets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from d4c import SettingError
from d4c.evaluation.dataset import Dataset


def made_up(count: int) -> Dataset:
    return Dataset("made up", ("x",), np.zeros(count, np.int64), lambda i: Image.new("RGB", (1, 1), (i, 0, 0)))


@given(st.integers(1, 255), st.integers(1, 300))
def test_a_subset_is_spread_evenly(count: int, limit: int) -> None:
    subset = made_up(count).subset(limit)
    chosen = [int(np.asarray(subset.image(i))[0, 0, 0]) for i in range(len(subset))]
    assert len(chosen) == min(count, limit)
    gaps = np.diff(chosen)
    assert len(set(gaps.tolist())) <= 2
    assert all(gap in (count // limit, -(-count // limit)) for gap in gaps) or limit > count


@pytest.mark.parametrize("limit", [0, -3])
def test_an_empty_subset_is_refused(limit: int) -> None:
    with pytest.raises(SettingError, match=f"The limit is {limit} images"):
        made_up(4).subset(limit)
