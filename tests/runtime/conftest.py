"""An export and pictures that the tests of the runtime share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import d4c
from d4c.evaluation.readers.demo_pack import demo_dataset
from d4c.models.clip import CLIP
from d4c.quantization.quantized import QuantizedCLIP
from d4c.reading.seal import CHECKSUM, write_sealed
from d4c.runtime.runtime_clip import RuntimeCLIP
from d4c.storage.files import sha256


@pytest.fixture(scope="session")
def artifact(demo_vit: CLIP, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded vision transformer at W4A8, saved; every runtime computes it exactly on every processor."""
    folder = tmp_path_factory.mktemp("runtime") / "artifact"
    calibration = d4c.synthesize(demo_vit, "noise", images=4)
    prompts = ["a cat", "tree"]
    clip = d4c.quantize(demo_vit, calibration, "W4A8", reconstruction="none", prompts=prompts)
    clip.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def quantized(artifact: Path) -> QuantizedCLIP:
    """The artifact in PyTorch."""
    return d4c.load_quantized(artifact)


@pytest.fixture(scope="session")
def exported(artifact: Path) -> Path:
    """The folder that `export` made of the artifact; tests must not change it."""
    return d4c.export(artifact, check=False).folder


@pytest.fixture(scope="session")
def model(exported: Path) -> RuntimeCLIP:
    """The export in ONNX Runtime."""
    return d4c.load_quantized(exported, runtime="onnxruntime")


@pytest.fixture(scope="session", params=["onnxruntime", "openvino"])
def any_model(request: pytest.FixtureRequest, exported: Path) -> RuntimeCLIP:
    """The export in each runtime."""
    return d4c.load_quantized(exported, runtime=request.param)


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    """An export that a test may change."""
    return shutil.copytree(exported, tmp_path / "copy")


@pytest.fixture(scope="session")
def sign() -> Callable[[Path], None]:
    """Write the sizes and hashes of an export's files into its export.json, as they are now."""

    def apply(folder: Path) -> None:
        description = json.loads((folder / "export.json").read_text())
        for name in description["files"]:
            file = folder / name
            description["files"][name] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
        write_sealed(folder / "export.json", {k: v for k, v in description.items() if k != CHECKSUM})

    return apply


@pytest.fixture(scope="session")
def emoji() -> dict[str, Image.Image]:
    """Some pictures with transparent parts, by name."""
    data = demo_dataset()
    return {data.classes[i]: data.picture(i) for i in range(0, len(data), 50)}


@pytest.fixture
def pictures(emoji: dict[str, Image.Image], tmp_path: Path) -> Path:
    """A folder of pictures, two of them below another folder, and things that are no pictures."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for i, (name, picture) in enumerate(emoji.items()):
        picture.save(folder / ("below" if i < 2 else "") / f"{name}.png")
    shutil.copyfile(next(folder.glob("*.png")), folder / ".hidden" / "secret.png")
    shutil.copyfile(next(folder.glob("*.png")), folder / ".secret.png")
    (folder / "notes.txt").write_text("no picture")
    (folder / "away.jpg").symlink_to("nowhere.jpg")
    return folder
