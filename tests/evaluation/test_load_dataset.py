"""Specs, and the table of readers that help text and error messages come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import d4c
from d4c import DataError, SettingError
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.load_dataset import READERS, dataset_help, load_dataset
from d4c.evaluation.readers.reader import Reader
from d4c.models.clip import CLIP


def test_a_dataset_is_its_own_spec() -> None:
    demo = load_dataset("demo")
    assert load_dataset(demo) is demo


@pytest.mark.parametrize("spec", ["", "demos", "demo:", "folder:", "folder", "hub:x", ":x"])
def test_unknown_specs_list_the_known_ones(spec: str) -> None:
    with pytest.raises(SettingError, match="expected 'demo', 'parquet:FILE', 'folder:DIR'"):
        load_dataset(spec)


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        load_dataset(f"folder:{tmp_path / 'nowhere'}")


def read_shades(spec: str, path: Path) -> Dataset:
    """One gray picture per line of a file, which names its class."""
    shades = path.read_text().split()
    names = tuple(dict.fromkeys(shades))
    labels = np.array([names.index(shade) for shade in shades])
    return Dataset(spec, names, labels, lambda i: Image.new("L", (8, 8), int(shades[i])))


def test_a_new_dataset_is_one_reader(demo_vit: CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader("shades:FILE", "gray pictures, one shade per line", read_shades)
    monkeypatch.setitem(READERS, reader.kind, reader)
    (tmp_path / "shades.txt").write_text("10\n200\n10\n")
    assert d4c.evaluate(demo_vit, f"shades:{tmp_path / 'shades.txt'}").count == 3
    assert "shades:FILE (gray pictures, one shade per line)" in dataset_help()
    with pytest.raises(SettingError, match="or 'shades:FILE'; give one of these"):
        load_dataset("shades")
