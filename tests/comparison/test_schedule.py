"""What is begun in which order, and what waits for images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from typer.testing import CliRunner

from d4c.cli import app
from d4c.comparison.compare import compare
from d4c.comparison.config import Cell, ComparisonConfig, Source
from d4c.comparison.workers.decoded import decode, normalized
from d4c.comparison.workers.local_workers import LocalWorkers, Task
from d4c.evaluation.batches import pixel_batches
from d4c.evaluation.load_dataset import load_dataset
from d4c.models.formats.load import load


class Noted(LocalWorkers):
    """Notes what is asked for, and holds each result back until a task has to wait for it."""

    def __init__(self, several: bool) -> None:
        super().__init__(1, "cpu")
        self.beside = several
        self.asked: list[Cell | Source | None] = []

    @property
    def several(self) -> bool:
        return self.beside

    def results(self, tasks: Iterable[Task | None]) -> Iterator[tuple[int, Any]]:
        held: list[tuple[int, Any]] = []
        number = 0
        for task in tasks:
            self.asked.append(None if task is None else task.arguments[1])
            if task is not None:
                held.append((number, task.function(*task.arguments, "cpu")))
                number += 1
            if task is None or not self.several:
                yield from held
                held.clear()
        yield from held


def seeds(asked: Iterable[Cell | Source | None]) -> list[str]:
    return [
        "wait" if item is None else f"{'images' if isinstance(item, Source) else 'cell'} {item.seed}"
        for item in asked
        if not (isinstance(item, Cell) and item.is_float)
    ]


def test_everything_of_one_seed_comes_before_the_next_one(grid: ComparisonConfig, tmp_path: Path) -> None:
    grid = replace(grid, methods=("noise",), schemes=("W3A3",))
    alone, several = Noted(several=False), Noted(several=True)
    compare(grid, tmp_path / "alone", alone)
    compare(grid, tmp_path / "several", several)
    assert seeds(alone.asked) == ["images 0", "cell 0", "images 1", "cell 1"]
    assert seeds(several.asked) == ["images 0", "images 1", "wait", "cell 0", "cell 1"]


def test_nothing_is_begun_after_the_time(grid: ComparisonConfig, tmp_path: Path) -> None:
    grid = replace(grid, methods=("noise",), schemes=("W3A3",), seeds=(0,))
    assert compare(grid, tmp_path, minutes=-1).missing == 2
    assert not list((tmp_path / "cells").iterdir())
    assert compare(grid, tmp_path, minutes=math.inf).missing == 0


def test_the_command_says_what_is_left_and_ends_with_a_report(grid: ComparisonConfig, tmp_path: Path) -> None:
    words = ["compare", "--model", grid.models[0], "--methods", "noise", "--schemes", "W3A3", "--images", "8"]
    words += [
        "--dataset",
        grid.datasets[0],
        "--reconstructions",
        "none",
        "--device",
        "cpu",
        "-o",
        str(tmp_path / "grid"),
    ]
    stopped = CliRunner().invoke(app, [*words, "--minutes", "0"])
    assert stopped.exit_code == 0
    assert "0 of 2 cells are measured; the same command resumes" in stopped.output
    assert not (tmp_path / "grid" / "report.html").exists()
    assert CliRunner().invoke(app, words).exit_code == 0
    assert "W3A3" in (tmp_path / "grid" / "report.html").read_text(encoding="utf-8")


def test_pictures_that_are_kept_are_those_of_the_preprocessing(tiny_model: Path, shapes: Path) -> None:
    clip, dataset = load(tiny_model), load_dataset(f"folder:{shapes}")
    pixels = decode(dataset, clip.image_size, clip.config.resize, clip.config.interpolation)
    assert pixels is not None
    kept = torch.cat(list(normalized(clip, pixels, 7)))
    assert torch.equal(kept, torch.cat(list(pixel_batches(dataset, clip.preprocess, 5))))


def test_a_dataset_that_is_too_large_or_damaged_is_decoded_for_each_cell(
    tiny_model: Path, shapes: Path, tmp_path: Path
) -> None:
    clip = load(tiny_model)
    for folder in ("red", "blue"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.png").write_bytes((shapes / folder / "0.png").read_bytes())
        (tmp_path / folder / "1.png").write_bytes(
            b"damaged" if folder == "red" else (shapes / "blue/1.png").read_bytes()
        )
    look = clip.config.resize, clip.config.interpolation
    assert decode(load_dataset(f"folder:{tmp_path}"), 16, *look) is None
    assert decode(load_dataset(f"folder:{shapes}"), 1 << 14, *look) is None
