"""The published table: its grid, and measured gains beside published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from d4c import SettingError
from d4c.cli.display import print_paper_table
from d4c.cli.entry import app
from d4c.comparison.compare import Comparison
from d4c.comparison.config import Cell, cells, comparison_config
from d4c.comparison.paper_table import METHODS, paper_page, paper_settings, paper_specs
from d4c.evaluation.metrics.intervals import wilson
from d4c.evaluation.metrics.record import Metrics

RIGHT = {"float": 90, "bns": 50, "pse": 50, "d4c": 70, "real": 80}
"""How many of the first images of 100 are right."""


def result(cell: Cell, spec: str) -> dict[str, Any]:
    unfit = {"RN50": "pse", "ViT-B-32": "bns", "ViT-B-16": "bns"}[Path(cell.model).stem]
    if cell.method == unfit:
        return {"unfit": "It cannot serve this tower."}
    count = RIGHT[cell.method.partition(":")[0]]
    metrics = Metrics(spec, 100, {"top1": wilson(count, 100), "top5": wilson(count, 100)}, None, 1.0)
    bits = np.packbits(np.arange(100) < count).tobytes().hex()
    return {"results": {spec: {"figure": "top1", "metrics": metrics.to_dict(), "hits": bits}}}


def test_the_grid_is_that_of_the_paper() -> None:
    specs = paper_specs({"cifar10": "/data/c10", "cifar100": "parquet:c100.parquet", "imagenet": None})
    assert specs == {"cifar10": "cifar10:/data/c10", "cifar100": "parquet:c100.parquet"}
    config = comparison_config(paper_settings(specs, "openai", None))
    assert config.methods == (*METHODS, "real:cifar10:/data/c10")
    assert config.synthesis("d4c", 0).iterations == 3000
    published = config.quantization(Cell("RN50", "d4c", 0, "W4A8", "paper")).resolved()
    assert (published.reconstruction, published.iterations) == ("published", 20_000)
    for scheme, kind in {"W4A8": "gptq", "W6A6": "block"}.items():
        deployable = config.quantization(Cell("RN50", "d4c", 0, scheme, "deployable")).resolved()
        assert deployable.reconstruction == kind
    with pytest.raises(SettingError, match="has no data; give --cifar10"):
        paper_specs({"cifar10": None})


def test_measured_gains_stand_beside_published_ones(capsys: pytest.CaptureFixture[str]) -> None:
    specs = {"cifar10": "cifar10:c"}
    config = comparison_config(paper_settings(specs, "openai", None))
    comparison = Comparison(config, {cell: result(cell, "cifar10:c") for cell in cells(config)})
    page = paper_page(comparison, specs)
    lines = [line for line in page.splitlines() if "| paper |" in line]
    assert len(lines) == 9
    published = {"RN50 | paper | W4A8": "+12.4 (RN50)", "ViT-B-32 | paper | W6A6": "+9.5 (ViT-B/32)"}
    for start, gain in published.items():
        (line,) = (line for line in lines if line.startswith(f"| {start} "))
        cells_of_line = [cell.strip() for cell in line.strip("| ").split("|")]
        assert cells_of_line[3:8] == ["CIFAR-10", "90.0", "50.0", "70.0", "80.0"]
        assert cells_of_line[8].startswith("+20.0 (+1")
        assert cells_of_line[9] == gain
    assert not any("ViT-B-16" in line and "ViT-B/32" in line for line in page.splitlines())
    assert not any("deployable" in line and "(RN50)" in line for line in page.splitlines())
    print_paper_table(comparison, specs)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "RN50, paper, W4A8" in printed
    assert "(RN50)" in printed


def test_a_smaller_grid_has_a_smaller_table() -> None:
    """Options may leave out photographs and datasets."""
    specs = {"cifar10": "cifar10:c", "cifar100": "cifar100:c"}
    settings = paper_settings(specs, "openai", None) | {"methods": ["pse", "d4c"], "datasets": ["cifar10:c"]}
    config = comparison_config(settings | {"models": ["ViT-B-32"]})
    page = paper_page(Comparison(config, {cell: result(cell, "cifar10:c") for cell in cells(config)}), specs)
    lines = [line for line in page.splitlines() if line.startswith("| ViT-B-32 ")]
    assert len(lines) == 6
    assert all("| 50.0 | 70.0 |  |" in line for line in lines)


def test_weights_may_lie_in_a_folder(tmp_path: Path) -> None:
    """Each by its name, as a file or a folder; the page calls it so."""
    (tmp_path / "RN50.pt").touch()
    (tmp_path / "ViT-B-32").mkdir()
    specs = {"cifar10": "cifar10:c"}
    with pytest.raises(SettingError, match="no weights called ViT-B-16, expected a file or a folder"):
        paper_settings(specs, str(tmp_path), None)
    (tmp_path / "ViT-B-16.safetensors").touch()
    settings = paper_settings(specs, str(tmp_path), None)
    assert settings["models"] == [str(tmp_path / name) for name in ("RN50.pt", "ViT-B-32", "ViT-B-16.safetensors")]
    config = comparison_config(settings)
    comparison = Comparison(config, {cell: result(cell, "cifar10:c") for cell in cells(config)})
    page = paper_page(comparison, specs)
    assert "| RN50 | paper | W4A8 |" in page
    assert "| ViT-B-16 | paper | W4A8 |" in page
    assert str(tmp_path) not in page


def test_options_override_the_recipe() -> None:
    words = ["compare", "--recipe", "paper-table", "--cifar10", "demo:x", "--weights", "openai", "--dry-run"]
    out = CliRunner().invoke(app, [*words, "--seeds", "0,1", "--tracks", "paper", "--preset", "quick"]).stdout
    assert 'models = [\n    "RN50",\n    "ViT-B-32",\n    "ViT-B-16",\n]' in out
    assert 'pretrained = "openai"' in out
    assert 'tracks = [\n    "paper",\n]' in out
    assert 'preset = "quick"' in out


def test_a_list_of_no_numbers_is_wrong_usage() -> None:
    outcome = CliRunner().invoke(app, ["compare", "--model", "demo-vit", "--seeds", "a", "--dry-run"])
    assert outcome.exit_code == 2
