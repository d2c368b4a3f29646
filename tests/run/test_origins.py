"""What tells models and datasets apart without loading them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from d4c.run.origins import DEMO, data_origin, model_origin


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "model" / "merges.txt").write_text("a b")
    (tmp_path / "model" / "model.safetensors.index.json").write_text("{}")
    return tmp_path / "model"


def test_embedded_models_differ_and_equal_their_copies(tmp_path: Path) -> None:
    origins = {model_origin(name, None) for name in ("demo-vit", "demo-rn")}
    assert len(origins) == 2
    assert None not in origins
    copy = shutil.copy(DEMO / "demo-rn.safetensors", tmp_path / "demo-rn.safetensors")
    assert model_origin(str(copy), None) == model_origin("demo-rn", None)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "merges.txt"])
@pytest.mark.parametrize(
    "named", ["", "model.safetensors", "model.safetensors.index.json"], ids=["folder", "file", "index"]
)
def test_a_change_of_any_file_that_is_read_is_noticed(model: Path, name: str, named: str) -> None:
    source = str(model / named)
    origin = model_origin(source, None)
    times = (model / name).stat()
    content = (model / name).read_bytes()
    (model / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    os.utime(model / name, ns=(times.st_atime_ns, times.st_mtime_ns))  # by content, not by time
    assert model_origin(source, None) != origin
    (model / name).write_bytes(content)
    assert model_origin(source, None) == origin


def test_names_that_are_looked_up_elsewhere_are_not_told() -> None:
    assert model_origin("hf-hub:org/name", None) is None
    assert model_origin("ViT-B-32", "openai") is None
    assert model_origin("ViT-B-32", None) is None


def test_a_folder_of_data_is_told_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(b"one")
    spec = f"folder:{tmp_path}"
    origins = [data_origin(spec)]
    (tmp_path / "cat" / "b.png").write_bytes(b"two")
    origins.append(data_origin(spec))
    (tmp_path / "cat" / "b.png").rename(tmp_path / "cat" / "c.png")
    origins.append(data_origin(spec))
    (tmp_path / "cat" / "c.png").write_bytes(b"more")
    origins.append(data_origin(spec))
    assert len(set(origins)) == 4
    assert data_origin(spec) == origins[-1]


def test_pictures_that_change_places_are_other_data(tmp_path: Path) -> None:
    """With the same names, sizes and times, as after `mv`."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(name.encode())
        os.utime(tmp_path / name / "1.png", (1, 1))
    spec = f"folder:{tmp_path}"
    origin = data_origin(spec)
    (tmp_path / "cat" / "1.png").rename(tmp_path / "away")
    (tmp_path / "dog" / "1.png").rename(tmp_path / "cat" / "1.png")
    (tmp_path / "away").rename(tmp_path / "dog" / "1.png")
    assert data_origin(spec) != origin


def test_classes_are_told_by_their_names_though_they_are_links_or_empty(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "1.png").write_bytes(b"one")
    data = tmp_path / "data"
    (data / "cat").mkdir(parents=True)
    (data / "dog").symlink_to(tmp_path / "store")
    spec = f"folder:{data}"
    origins = [data_origin(spec)]
    (data / "cat").rename(data / "cow")
    origins.append(data_origin(spec))
    (data / "dog").rename(data / "hen")
    origins.append(data_origin(spec))
    (tmp_path / "store" / "1.png").write_bytes(b"two")
    origins.append(data_origin(spec))
    (data / "hen2").symlink_to(tmp_path / "store")
    origins.append(data_origin(spec))
    assert len(set(origins)) == 5
    (data / "cow" / "up").symlink_to(data)
    assert data_origin(spec) == origins[-1]  # which comes to an end


def test_images_that_a_reader_does_not_read_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "val" / "n1").mkdir(parents=True)
    (tmp_path / "train").mkdir()
    origins = []
    for changed in (None, tmp_path / "train" / "1.JPEG", tmp_path / "val" / "n1" / "1.JPEG", tmp_path / "classes.txt"):
        if changed is not None:
            changed.write_bytes(b"x")
        origins.append(data_origin(f"imagenet1k:{tmp_path}"))
    assert origins[0] == origins[1]
    assert len(set(origins)) == 3


def test_a_file_of_data_is_told_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"one")
    origin = data_origin(f"parquet:{tmp_path / 'x.parquet'}")
    (tmp_path / "x.parquet").write_bytes(b"two")
    assert data_origin(f"parquet:{tmp_path / 'x.parquet'}") != origin
    assert data_origin("demo") == data_origin("demo")
    assert data_origin("photos") is None
