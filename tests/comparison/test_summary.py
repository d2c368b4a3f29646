"""Rows over seeds: means, the way from noise to real images, and differences paired by image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from d4c.comparison.compare import Comparison
from d4c.comparison.config import Cell, ComparisonConfig, cells
from d4c.comparison.summary import SummaryRow, summary
from d4c.evaluation.metrics.intervals import wilson
from d4c.evaluation.metrics.record import Fidelity, Metrics

CONFIG = ComparisonConfig(models=("demo-vit",), methods=("noise", "d4c", "real:demo"), schemes=("W4A4",), seeds=(0, 1))
HITS = {"float": [90, 90], "noise": [60, 62], "d4c": [70, 74], "real:demo": [80, 82]}
"""How many of the first images of 100 are right, by method and seed."""


def result(cell: Cell) -> dict[str, Any]:
    count = HITS[cell.method][cell.seed]
    close = None if cell.is_float else Fidelity(0.9, 0.8, 0.9, wilson(count, 100), 0.1)
    metrics = Metrics("demo", 100, {"top1": wilson(count, 100), "top5": wilson(count, 100)}, close, 1.0)
    data = {"metrics": metrics.to_dict(), "hits": np.packbits(np.arange(100) < count).tobytes().hex()}
    seconds = {"evaluate": 1.0} if cell.is_float else {"evaluate": 1.0, "quantize": 2.0 + 2 * cell.seed}
    return {"bytes": 1000, "seconds": seconds, "results": {"demo": data}}


@pytest.fixture(scope="module")
def rows() -> dict[str, SummaryRow]:
    comparison = Comparison(CONFIG, {cell: result(cell) for cell in cells(CONFIG)})
    return {row.method: row for row in summary(comparison)}


def test_means_and_spread_are_over_seeds(rows: dict[str, SummaryRow]) -> None:
    row = rows["d4c"]
    assert (row.seeds, row.mean, row.lowest, row.highest) == (2, 72, 70, 74)
    assert row.spread == pytest.approx(2**1.5)
    assert row.quantize_seconds == 3
    assert rows["float"].spread is None


def test_the_gap_goes_from_noise_to_real_images(rows: dict[str, SummaryRow]) -> None:
    assert {name: row.gap for name, row in rows.items()} == {
        "float": None,
        "noise": 0,
        "d4c": pytest.approx(11 / 20),
        "real:demo": 1,
    }


def test_differences_are_paired_by_image(rows: dict[str, SummaryRow]) -> None:
    change, beside = rows["d4c"].change, rows["d4c"].beside
    assert change is not None
    assert beside is not None
    assert change.value == pytest.approx(-18)
    assert beside.value == pytest.approx(11)
    assert change.low < -18 < change.high < 0
    assert 0 < beside.low < 11 < beside.high
    # What is right in both, or wrong in both, adds no doubt: much less than two independent proportions have.
    assert beside.high - beside.low < 13
    assert rows["noise"].beside is None
    assert rows["float"].change is None
