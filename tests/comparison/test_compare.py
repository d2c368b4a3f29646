"""Cells are files that appear whole: a grid resumes, grows, and notices what was replaced."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import d4c
from d4c import ArtifactError, DataError, SettingError
from d4c.comparison.compare import Comparison, compare, load_comparison
from d4c.comparison.config import Cell, ComparisonConfig, cells
from d4c.comparison.summary import summary
from d4c.comparison.tables import markdown, write_tables
from d4c.comparison.workers.local_workers import LocalWorkers, Task
from d4c.evaluation.metrics.record import Metrics
from d4c.models.formats.load import load


class Counted(LocalWorkers):
    """Counts tasks, and breaks off after some of them."""

    def __init__(self, most: int = 1000) -> None:
        super().__init__(1, "cpu")
        self.done, self.most = 0, most

    def results(self, tasks: Iterable[Task | None]) -> Iterator[tuple[int, Any]]:
        for number, result in super().results(tasks):
            self.done += 1
            if self.done > self.most:
                raise KeyboardInterrupt
            yield number, result


def measured(comparison: Comparison) -> list[dict[str, Any]]:
    """What cells ended with, without times."""
    results = [json.loads(json.dumps(result)) for result in comparison.results.values()]
    for result in results:
        result.pop("seconds", None)
        for data in result.get("results", {}).values():
            data["metrics"].pop("seconds")
    return results


def test_a_grid_that_was_stopped_resumes_and_a_finished_one_does_nothing(
    grid: ComparisonConfig, tmp_path: Path
) -> None:
    grid = replace(grid, schemes=("W3A3",), seeds=(0,))
    whole = compare(grid, tmp_path / "whole", Counted())
    stopped = Counted(most=3)
    with pytest.raises(KeyboardInterrupt):
        compare(grid, tmp_path / "stopped", stopped)
    with pytest.raises(ArtifactError, match="is not finished; run d4c compare again"):
        load_comparison(tmp_path / "stopped")
    rest = Counted()
    resumed = compare(grid, tmp_path / "stopped", rest)
    assert rest.done == 2 + len(cells(grid)) - 3
    assert measured(resumed) == measured(whole)
    nothing = Counted()
    again = compare(grid, tmp_path / "stopped", nothing)
    assert (nothing.done, measured(again)) == (0, measured(whole))
    assert measured(load_comparison(tmp_path / "stopped")) == measured(whole)


@pytest.fixture
def small(grid: ComparisonConfig) -> ComparisonConfig:
    """One method, one scheme and one seed."""
    return replace(grid, methods=("noise",), schemes=("W3A3",), seeds=(0,))


def test_a_cell_is_what_quantize_and_evaluate_give(small: ComparisonConfig, tmp_path: Path) -> None:
    results = compare(small, tmp_path / "grid").results
    (cell,) = (cell for cell in results if not cell.is_float)
    clip = load(small.models[0])
    images = d4c.synthesize(clip, "noise", preset="quick", images=8, seed=0)
    quantized = d4c.quantize(clip, images, "W3A3", preset="quick", reconstruction="none", seed=0)
    expected = d4c.evaluate(quantized, small.datasets[0], reference=clip)
    saved = Metrics.from_dict(results[cell]["results"][small.datasets[0]]["metrics"])
    assert replace(saved, seconds=0.0) == replace(expected, seconds=0.0)
    assert results[cell]["artifact_sha256"]
    quantized.save_pretrained(tmp_path / "artifact")
    assert results[cell]["bytes"] == (tmp_path / "artifact" / "model.safetensors").stat().st_size


def test_a_grid_that_grows_keeps_its_cells(small: ComparisonConfig, tmp_path: Path) -> None:
    compare(small, tmp_path / "grid")
    more = Counted()
    compare(replace(small, schemes=("W3A3", "W8A8")), tmp_path / "grid", more)
    assert more.done == 1


def test_pictures_and_weights_that_were_replaced_are_measured_again(
    small: ComparisonConfig, tmp_path: Path, shapes: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(shapes, data)
    here = replace(small, datasets=(f"folder:{data}",))
    compare(here, tmp_path / "grid")
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(data / "red" / "0.png")
    again = Counted()
    compare(here, tmp_path / "grid", again)
    assert again.done == 2  # the images of the method do not depend on the data


def test_a_method_that_cannot_serve_the_model_is_left_out_and_named(small: ComparisonConfig, tmp_path: Path) -> None:
    comparison = compare(replace(small, methods=("noise", "bns")), tmp_path / "grid")
    ((what, reason),) = comparison.unfit.items()
    assert what.startswith("bns on ")
    assert "BatchNorm" in reason
    assert [row.method for row in summary(comparison)] == ["float", "noise"]
    with pytest.raises(SettingError, match="BatchNorm"):
        compare(replace(small, methods=("bns",)), tmp_path / "only")


def test_what_cannot_be_used_is_refused_before_any_work(small: ComparisonConfig, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(SettingError, match="holds files and is not a comparison"):
        compare(small, tmp_path)
    with pytest.raises(DataError, match="nowhere does not exist"):
        compare(replace(small, datasets=("folder:nowhere",)), tmp_path / "grid")
    assert not (tmp_path / "grid").exists()
    with pytest.raises(SettingError, match="has 24 images, expected 100 to calibrate with"):
        compare(replace(small, methods=(f"real:{small.datasets[0]}",), images=100), tmp_path / "grid")


def test_the_file_of_a_cell_that_was_damaged_is_named(small: ComparisonConfig, tmp_path: Path) -> None:
    compare(small, tmp_path / "grid")
    for file in (tmp_path / "grid" / "cells").iterdir():
        file.write_text("{}")
    with pytest.raises(ArtifactError, match="remove the file, and the cell is measured again"):
        load_comparison(tmp_path / "grid")


def test_tables_say_the_same_in_three_forms(grid: ComparisonConfig, tmp_path: Path) -> None:
    import csv

    import pyarrow.parquet as pq

    grid = replace(grid, methods=("noise",), seeds=(0,), towers=("both", "image"))
    rows = summary(compare(grid, tmp_path / "grid"))
    write_tables(rows, tmp_path)
    table = pq.read_table(tmp_path / "summary.parquet").to_pylist()
    assert table == [row.to_dict() for row in rows]
    with (tmp_path / "summary.csv").open(encoding="utf-8") as stream:
        assert [float(line["mean"]) for line in csv.DictReader(stream)] == [row.mean for row in rows]
    text = markdown(rows)
    assert text == (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert len([line for line in text.splitlines() if line.startswith("| ")]) == len(rows) + 2
    assert "| noise, image | W8A8 |" in text
    assert len({row.towers for row in rows if row.method == "noise"}) == 2


def test_float_is_a_cell_of_its_own(small: ComparisonConfig, tmp_path: Path) -> None:
    comparison = compare(small, tmp_path / "grid")
    floating = comparison.results[Cell(small.models[0])]
    metrics = d4c.evaluate(load(small.models[0]), small.datasets[0])
    assert floating["results"][small.datasets[0]]["metrics"]["top1"]["value"] == metrics.top1.value
