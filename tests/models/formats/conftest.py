"""Tiny CLIPs in the layouts of others, with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from d4c.models.config import CLIPConfig
from d4c.models.formats.assemble import Layout, blueprint
from d4c.models.formats.huggingface import huggingface_layout
from d4c.models.formats.openai import openai_layout
from d4c.models.tower_config import TextConfig, ViTConfig

State = dict[str, Tensor]
TINY = CLIPConfig(4, ViTConfig(16, 8, 8, 1, 1, 16), TextConfig(8, 1, 1, 16))
HUGGINGFACE: dict[str, Any] = {
    "model_type": "clip",
    "projection_dim": 4,
    "vision_config": {
        "image_size": 16,
        "patch_size": 8,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "hidden_act": "gelu",
    },
    "text_config": {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "hidden_act": "gelu",
    },
}


def random_state(layout: Layout) -> State:
    generator = torch.Generator().manual_seed(3)
    shapes = {key: shape for ours, own in blueprint(TINY).items() for key, shape in layout(ours).shapes(own).items()}
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


@pytest.fixture(scope="session")
def openai_state() -> State:
    """Weights with OpenAI's names; tests must not change them."""
    return random_state(partial(openai_layout, TINY))


@pytest.fixture(scope="session")
def huggingface_state() -> State:
    """Weights with Hugging Face's names; tests must not change them."""
    return random_state(huggingface_layout)


@pytest.fixture
def huggingface_folder(tmp_path: Path, huggingface_state: State) -> Callable[..., Path]:
    """Writes a folder in Hugging Face's layout; other files are given as names and what their JSON holds."""

    def write(text: dict[str, Any] | None = None, **files: Any) -> Path:
        config = {**HUGGINGFACE, "text_config": {**HUGGINGFACE["text_config"], **(text or {})}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        save_file(huggingface_state, tmp_path / "model.safetensors")
        for name, content in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return tmp_path

    return write
