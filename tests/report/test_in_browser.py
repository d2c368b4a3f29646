"""The page in headless Chromium: it draws, sorts, filters and speaks, fits the screen, and axe-core finds nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from d4c.quantization.doctor.diagnosis import Diagnosis
from d4c.report.gather import Layers, ReportData
from d4c.report.measures.before_after import examples
from d4c.report.measures.predictions import Predictions, accuracy
from d4c.report.page.render import render

HERE = Path(__file__).parent
NODE, NPM = shutil.which("node"), shutil.which("npm")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
LARGEST, SLOWEST = 3e6, 1.0
"""Bytes, and seconds of the processor until all is drawn, of the report of a model of the size of ViT-L/14."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(NPM is None or CHROMIUM is None, reason="needs npm and chromium"),
]


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which npm installed what package.json names."""
    folder = tmp_path_factory.mktemp("npm")
    shutil.copyfile(HERE / "package.json", folder / "package.json")
    subprocess.run([str(NPM), "install", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, check=True)
    return folder


@pytest.fixture(scope="module")
def single(report: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("single") / "report.html"
    file.write_text(render(report), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def pair(report: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models side by side."""
    ((name, part),) = report.parts.items()
    assert isinstance(report.predictions, Predictions)
    (embeddings,) = report.predictions.models.values()
    names = name, "W8A8, another"
    predictions = replace(report.predictions, models=dict.fromkeys(names, embeddings))
    both = replace(
        report,
        parts=dict.fromkeys(names, part),
        predictions=predictions,
        accuracy=accuracy(predictions),
        examples=examples(predictions),
        images=dict.fromkeys(names, report.images[name]),
    )
    file = tmp_path_factory.mktemp("pair") / "report.html"
    file.write_text(render(both), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def large(report: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of the size of ViT-L/14: 24 image blocks and 12 text blocks, and 128 images of 224 pixels of noise."""
    ((name, part),) = report.parts.items()
    layers, images, diagnosis = part.layers, report.images[name], report.diagnosis
    assert isinstance(layers, Layers)
    assert isinstance(diagnosis, Diagnosis)
    repeated = [
        replace(error, name=error.name.replace(f"{tower}.blocks.0.", f"{tower}.blocks.{i}."))
        for tower, blocks in (("image", 24), ("text", 12))
        for i in range(blocks)
        for error in layers.errors
        if error.name.startswith(f"{tower}.blocks.0.")
    ]
    ranges = [
        replace(row, name=row.name.replace("blocks.0.", f"blocks.{i}."))
        for i in range(24)
        for row in layers.ranges
        if ".blocks.0." in row.name
    ]
    axes = tuple(
        replace(tower, axes=tuple(replace(axis, name=f"{axis.name}.{i}") for i in range(24) for axis in tower.axes[:4]))
        for tower in diagnosis.towers
    )
    generator = torch.Generator().manual_seed(0)
    noise = replace(
        images,
        pixels=torch.rand(128, 3, 224, 224, generator=generator) * 4 - 2,
        prompts=tuple(images.texts[i] for i in range(128)),
        targets=torch.arange(128),
        boxes=None,
    )
    assert isinstance(report.predictions, Predictions)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (224, 224, 3), np.uint8) for _ in range(24)]
    dataset = replace(report.predictions.dataset, read=lambda i: pictures[i])
    whole = replace(
        report,
        parts={name: replace(part, layers=replace(layers, errors=tuple(repeated), ranges=tuple(ranges)))},
        diagnosis=replace(diagnosis, towers=axes),
        images={name: noise},
        predictions=replace(report.predictions, dataset=dataset),
    )
    file = tmp_path_factory.mktemp("large") / "report.html"
    file.write_text(render(whole), encoding="utf-8")
    return file


def look(tools: Path, page: Path, width: int = 1280, scheme: str = "light") -> dict[str, Any]:
    command = [str(NODE), str(HERE / "look.mjs"), str(CHROMIUM), str(page), str(width), scheme]
    done = subprocess.run(command, cwd=tools, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("page", ["single", "pair"])
def test_the_page_works(page: str, width: int, scheme: str, tools: Path, request: pytest.FixtureRequest) -> None:
    file = request.getfixturevalue(page)
    seen = look(tools, file, width, scheme)
    assert seen["problems"] == []
    assert seen["requests"] == [file.as_uri()]
    assert seen["overflow"] == 0
    assert len(seen["charts"]) >= 9
    for chart in seen["charts"]:
        assert chart["colors"] > 20, f"{chart['name']} is blank"
    assert [each for each in seen["violations"] if each["impact"] in ("serious", "critical")] == []


def test_tables_sort_and_filter(tools: Path, single: Path) -> None:
    seen = look(tools, single)
    assert len(seen["tables"]) > 9
    for table in seen["tables"]:
        assert table["sort"] == "descending"
        if all(is_number(cell) for cell in table["up"]):
            numbers = [float(cell) for cell in table["up"]]
            assert numbers == sorted(numbers), table["id"]
        assert sorted(table["up"]) == sorted(table["down"])
        assert (table["up"] == table["down"]) == (len(set(table["up"])) == 1)
    assert len(seen["filters"]) >= 3
    assert all(1 <= filtered["shown"] < filtered["rows"] for filtered in seen["filters"])


def test_arrow_keys_speak_the_values(tools: Path, single: Path) -> None:
    for text in look(tools, single)["spoken"]:
        assert any(letter.isdigit() for letter in text)


def test_a_report_of_a_large_model_is_small_and_fast(tools: Path, large: Path) -> None:
    assert large.stat().st_size < LARGEST
    seen = look(tools, large)
    assert (seen["problems"], seen["overflow"]) == ([], 0)
    assert seen["seconds"] < SLOWEST


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
