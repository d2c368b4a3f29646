"""A finished comparison has a report, which lies in its folder and does not disturb it."""

from __future__ import annotations

import html
from dataclasses import replace
from pathlib import Path

import pytest

from d4c.comparison.compare import compare
from d4c.comparison.config import ComparisonConfig
from d4c.comparison.summary import summary
from d4c.errors import ArtifactError
from d4c.report.write_comparison import is_comparison, write_comparison


def test_the_report_shows_the_summary(grid: ComparisonConfig, tmp_path: Path) -> None:
    small = replace(grid, methods=("noise",), schemes=("W8A8",), seeds=(0,))
    folder = tmp_path / "out"
    finished = compare(small, folder)
    file, rows = write_comparison(folder)
    assert is_comparison(folder)
    assert (file, rows) == (folder / "report.html", summary(finished))
    page = file.read_text()
    assert "W8A8 with noise" in page
    assert html.escape(small.to_toml().splitlines()[0]) in page
    for result in finished.results.values():
        assert result["model_sha256"] in page
        assert f"what was measured on {result['device']}" in page
    assert compare(small, folder).results == finished.results


def test_another_folder_has_none(tmp_path: Path) -> None:
    assert not is_comparison(tmp_path)
    with pytest.raises(ArtifactError):
        write_comparison(tmp_path)
    assert list(tmp_path.iterdir()) == []
