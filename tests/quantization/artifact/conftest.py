"""An artifact that tests may damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import d4c
from d4c.models.clip import CLIP


@pytest.fixture(scope="module")
def base(tiny_vit: CLIP, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound artifact; tests copy it before they damage it."""
    folder = tmp_path_factory.mktemp("artifact") / "base"
    calibration = d4c.synthesize(tiny_vit, "noise", images=4)
    prompts = ["a photo of a cat.", "tree", "two dogs in the snow"]
    d4c.quantize(tiny_vit, calibration, "W4A4", reconstruction="none", prompts=prompts).save_pretrained(folder)
    return folder


@pytest.fixture
def copied(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "copy"))
