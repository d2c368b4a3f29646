"""Rows that can be checked: hashes and figures are those of the cells, and no row stands there twice."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path

import pytest

from d4c import DataError
from d4c.comparison.compare import compare
from d4c.comparison.config import ComparisonConfig
from d4c.comparison.leaderboard import COLUMNS, append_rows
from d4c.device import processor_name


def test_rows_say_what_was_measured_and_are_added_once(grid: ComparisonConfig, tmp_path: Path) -> None:
    grid = replace(grid, methods=("noise",), schemes=("W4A8",), seeds=(3,), latency=True)
    grid = replace(grid, tracks=("deployable", "paper"))
    comparison = compare(grid, tmp_path / "grid")
    board = tmp_path / "board.csv"
    assert append_rows(comparison, board, "d4c compare ...") == 2
    assert append_rows(comparison, board, "d4c compare again") == 0
    with board.open(encoding="utf-8") as stream:
        row, published = csv.DictReader(stream)
    _, result, _ = comparison.results.values()
    assert (published["track"], published["image_batch_1_ms"]) == ("paper", "")  # which no integer kernel computes
    assert tuple(row) == COLUMNS
    assert (row["scheme"], row["calibration"], row["seed"], row["command"]) == ("W4A8", "noise", "3", "d4c compare ...")
    assert row["artifact_sha256"] == result["artifact_sha256"]
    assert row["predictions_sha256"] == result["results"][grid.datasets[0]]["predictions_sha256"]
    assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
    assert float(row["change"]) == pytest.approx(float(row["value"]) - float(row["float_value"]), abs=0.002)
    assert 4 < float(row["image_bits"]) < 8
    assert "image.patch_embed=W8A8" in row["exceptions"]
    for tower, batch in ((tower, batch) for tower in ("image", "text") for batch in (1, 32)):
        assert float(row[f"{tower}_batch_{batch}_ms"]) > 0
        assert float(row[f"float_{tower}_batch_{batch}_ms"]) > 0
    assert row["timed_with"].startswith("onnxruntime ")
    assert row["timed_on"] == f"{processor_name()}, {os.cpu_count()} cores"
    figures = result["results"][grid.datasets[0]]["metrics"]
    assert float(row["same_class"]) == pytest.approx(figures["fidelity"]["same_class"]["value"], abs=0.001)
    assert row["other_figures"].startswith(f"top5={figures['top5']['value']:.3f}({figures['top5']['low']:.3f},")
    board.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="has other columns than a leaderboard"):
        append_rows(comparison, board, "")
    assert board.read_text() == "a,b\n1,2\n"
