"""Stand-ins for the data of the published table."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from d4c.evaluation.dataset import Dataset
from d4c.evaluation.load_dataset import load_dataset


@pytest.fixture(scope="module")
def stand_ins() -> ModuleType:
    reason = "a source distribution has no benchmarks"
    module: ModuleType = pytest.importorskip("benchmarks.experiments.stand_ins", reason=reason)
    return module


def test_a_sorted_set_keeps_all_its_classes(stand_ins: ModuleType, tmp_path: Path) -> None:
    labels = np.repeat(np.arange(12), 4)
    names = tuple(f"kind {i}" for i in range(12))
    source = Dataset("sorted", names, labels, lambda i: np.full((8, 8, 3), i, np.uint8))
    stand_ins.write_cifar(source, 10, 15, tmp_path)
    written = load_dataset(f"cifar10:{tmp_path}")
    assert isinstance(written, Dataset)
    assert len(written) == 15
    assert set(written.labels) == set(range(10))
