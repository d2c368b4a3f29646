"""The grid as a record, as options and as a file."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from d4c import DataError, SettingError
from d4c.comparison.config import Cell, ComparisonConfig, cells, comparison_config, prompts_file

FULL = ComparisonConfig(
    models=("demo-vit", "demo-rn"),
    methods=("noise", "real:demo"),
    schemes=("w4a8",),
    tracks=("deployable", "paper"),
    reconstructions=("default", "gptq"),
    towers=("both", "image"),
    seeds=(3, 4),
    limit=20,
)


def test_a_grid_is_read_back_from_json_and_toml() -> None:
    assert comparison_config(FULL.to_dict()) == FULL
    assert comparison_config(tomllib.loads(FULL.to_toml())) == FULL
    assert FULL.schemes == ("W4A8",)


def test_every_combination_is_a_cell_once_and_float_comes_first() -> None:
    listed = cells(FULL)
    assert len(listed) == len(set(listed)) == 2 * (1 + 2 * 2 * 2 * 2 * 2)
    assert listed[0] == Cell("demo-vit")
    assert [cell.is_float for cell in listed].count(True) == 2
    sources = [cell.source for cell in listed[1:33]]
    assert sources == sorted(sources, key=lambda source: (source.seed, source.method))


def test_a_cell_says_how_it_is_quantized() -> None:
    (cell,) = (c for c in cells(FULL) if c == Cell("demo-rn", "noise", 4, "W4A8", "paper", "gptq", "image"))
    settings = FULL.quantization(cell)
    assert (settings.scheme, settings.track, settings.reconstruction) == ("W4A8", "paper", "gptq")
    assert (settings.towers, settings.seed) == (("image",), 4)
    assert FULL.synthesis("noise", 4).seed == 4
    for wide in (True, False):
        grid = replace(FULL, schemes=("W4A4",), wide_class_token=wide)
        assert grid.quantization(Cell("demo-vit", "noise", 3, "W4A4")).wide_class_token is wide


@pytest.mark.parametrize(
    ("change", "about"),
    [
        ({"methods": ["magic"]}, "method 'magic' is unknown; use d4c, .* or real:SPEC"),
        ({"schemes": ["W4"]}, "not of the form W4A8"),
        ({"seeds": []}, r"seeds is \[\], expected different values"),
        ({"seeds": [1, 1]}, "expected different values"),
        ({"reconstructions": ["all"]}, "reconstruction 'all' is unknown"),
        ({"towers": ["audio"]}, "towers is"),
        ({"seeds": ["x"]}, "seeds is"),
        ({"limits": 3}, "no comparison setting 'limits'"),
        ({"models": []}, "has no models"),
    ],
)
def test_other_grids_are_refused(change: dict[str, Any], about: str) -> None:
    with pytest.raises(SettingError, match=about):
        comparison_config(FULL.to_dict() | change)


def test_a_method_may_name_a_file_of_prompts(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    method = f"d4c:{file}"
    grid = ComparisonConfig(models=("demo-vit",), methods=(method,))
    assert (grid.synthesis(method, 2).method, prompts_file(method), prompts_file("real:demo")) == ("d4c", file, None)
    with pytest.raises(DataError, match="cannot be read as a text file"):
        grid.check_data()
    with pytest.raises(SettingError, match="names prompts, but leaves needs none"):
        ComparisonConfig(models=("demo-vit",), methods=("leaves:prompts.txt",))
    with pytest.raises(SettingError, match=r"'d5c:prompts\.txt' is unknown"):
        ComparisonConfig(models=("demo-vit",), methods=("d5c:prompts.txt",))
