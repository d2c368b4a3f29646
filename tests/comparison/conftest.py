"""A small checkpoint and small pictures that whole grids take seconds on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from d4c.comparison.config import ComparisonConfig
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.tower_config import TextConfig, ViTConfig
from d4c.quantization import quantize as quantize_module


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vision transformer of one narrow block with random weights, saved."""
    torch.manual_seed(1)
    text = TextConfig(width=32, layers=1, heads=2, mlp_width=64)
    clip = CLIP(CLIPConfig(16, ViTConfig(16, 8, 32, 1, 2, 64), text), "tiny").eval()
    folder = tmp_path_factory.mktemp("model") / "tiny"
    clip.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of eight pictures of noise around a color."""
    root = tmp_path_factory.mktemp("shapes")
    random = np.random.default_rng(0)
    for k, name in enumerate(("red", "green", "blue")):
        (root / name).mkdir()
        for i in range(8):
            picture = random.integers(0, 120, (16, 16, 3))
            picture[..., k] += 120
            Image.fromarray(picture.astype(np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def grid(tiny_model: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch) -> ComparisonConfig:
    """Two methods, two schemes and two seeds."""
    monkeypatch.setattr(quantize_module, "PROMPTS", 40)
    return ComparisonConfig(
        models=(str(tiny_model),),
        methods=("noise", f"real:folder:{shapes}"),
        schemes=("W8A8", "W3A3"),
        reconstructions=("none",),
        seeds=(0, 1),
        datasets=(f"folder:{shapes}",),
        images=8,
        device="cpu",
    )
