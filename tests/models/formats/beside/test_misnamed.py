"""What is almost a source gets one sentence with the right call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

import d4c
from d4c.errors import CheckpointError
from d4c.models.clip import CLIP


class SomeModel(nn.Module):
    def save_pretrained(self, folder: str) -> None: ...


@pytest.mark.parametrize(
    ("source", "call"),
    [
        ("ViT-B/32", r"use the open_clip name 'ViT-B-32' with pretrained='openai'"),
        ("ViT-L/14@336px", r"'ViT-L-14-336' with pretrained='openai' \(--model ViT-L-14-336 --pretrained openai\)"),
        ("openai/clip-vit-base-patch32", r"use 'hf-hub:openai/clip-vit-base-patch32'"),
        ("https://huggingface.co/org/name/tree/main", r"use 'hf-hub:org/name'"),
        ("runs/no/such/file", r"check the path"),
        (SomeModel(), r"class SomeModel, .* call save_pretrained of it and of its processor"),
        (nn.Linear(1, 1), r"class Linear, .* pass its state_dict\(\), with activation and heads"),
        (None, r"class NoneType, .* pass one of these"),
        (7, r"class int"),
    ],
)
def test_the_error_names_the_right_call(source: Any, call: str) -> None:
    with pytest.raises(CheckpointError, match=call) as caught:
        d4c.load(source)
    assert str(caught.value).endswith(".")


def test_pretrained_changes_nothing_of_that() -> None:
    with pytest.raises(CheckpointError, match="use the open_clip name 'ViT-B-32'"):
        d4c.load("ViT-B/32", "openai")


def test_a_loaded_model_is_no_source(demo_vit: CLIP) -> None:
    with pytest.raises(CheckpointError, match="'demo-vit' is loaded already"):
        d4c.load(demo_vit)  # type: ignore[arg-type]


def test_a_folder_of_something_else_names_what_reads_it(tmp_path: Path) -> None:
    for name in ("run/artifact", "export", "adapter", "quantized"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "export" / "export.json").write_text("{}")
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "quantized" / "config.json").write_text('{"architecture": {}, "quantization_config": {}}')
    (tmp_path / "quantized" / "model.safetensors").write_bytes(b"")
    for name, message in {
        "run": r"is the folder of a run, expected a model; use .*artifact",
        "export": r"is an export, expected a float model; use d4c.load_quantized\('.*', runtime='onnxruntime'\)",
        "adapter": "holds an adapter such as LoRA without the model",
        "quantized": "is a quantized model, expected a float one; use d4c.load_quantized, or d4c evaluate",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            d4c.load(tmp_path / name)


def test_a_configuration_is_no_weights_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config\.json is a JSON file, expected weights; use its folder"):
        d4c.load(tmp_path / "config.json")
