"""Layouts of servers that cannot be installed here: the facts of their source that loading rests on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from tokenizers import Tokenizer

from d4c.models.inputs.tokenizer import END
from d4c.zeroshot.classification import unit_rows

ExportFor = Callable[..., Path]


def ports(session: Any) -> tuple[dict[str, tuple[str, list[Any]]], dict[str, tuple[str, list[Any]]]]:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    return {x.name: (x.type, x.shape) for x in inputs}, {x.name: (x.type, x.shape) for x in outputs}


def test_immich_embeds_prompts(export_for: ExportFor, few: Any) -> None:
    """As immich_ml.models.clip.textual does: the tokenizer is padded with its own token, and the shape is fixed."""
    folder = export_for("immich")
    context = json.loads((folder / "config.json").read_text())["text_cfg"]["context_length"]
    padding = json.loads((folder / "textual" / "tokenizer_config.json").read_text())["pad_token"]
    tokenizer = Tokenizer.from_file(str(folder / "textual" / "tokenizer.json"))
    tokenizer.enable_padding(length=context, pad_token=padding, pad_id=tokenizer.token_to_id(padding))
    tokenizer.enable_truncation(max_length=context)
    assert padding == END
    session = onnxruntime.InferenceSession(folder / "textual" / "model.onnx")
    assert ports(session) == ({"text": ("tensor(int32)", [1, 77])}, {"embedding": ("tensor(float)", [1, 32])})
    for prompt, ours in zip(few.prompts[:6], unit_rows(few.text), strict=False):
        found = session.run(None, {"text": np.array([tokenizer.encode(prompt).ids], np.int32)})[0][0]
        assert found @ ours > 0.999
        assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)


def test_immich_embeds_pictures(export_for: ExportFor, few: Any) -> None:
    """As immich_ml.models.clip.visual does, by what preprocess_cfg.json says."""
    folder = export_for("immich")
    config = json.loads((folder / "visual" / "preprocess_cfg.json").read_text())
    assert (config["interpolation"], config["resize_mode"]) == ("bicubic", "shortest")
    session = onnxruntime.InferenceSession(folder / "visual" / "model.onnx")
    inputs = {"image": ("tensor(float)", [1, 3, *config["size"]])}
    assert ports(session) == (inputs, {"embedding": ("tensor(float)", [1, 32])})
    for path, ours in zip(few.pictures[:6], unit_rows(few.image), strict=False):
        pixels = np.asarray(Image.open(path), np.float32) / 255
        pixels = ((pixels - np.float32(config["mean"])) / np.float32(config["std"])).transpose(2, 0, 1)
        found = session.run(None, {"image": pixels[None]})[0][0]
        assert found @ ours > 0.999
        assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)


def test_clip_as_service_gets_one_output_of_each_file(export_for: ExportFor, few: Any, ours: Any) -> None:
    """It feeds pixel_values and int32 input_ids, and unpacks a list of one output."""
    folder = export_for("clip-as-service")
    textual, visual = (onnxruntime.InferenceSession(folder / f"{name}.onnx") for name in ("textual", "visual"))
    (text,) = textual.run(None, {"input_ids": ours.tokenize(few.prompts).astype(np.int32)})
    (image,) = visual.run(None, {"pixel_values": np.stack([ours.preprocess(path) for path in few.pictures])})
    assert (unit_rows(text) * unit_rows(few.text)).sum(-1).min() > 0.999
    assert (unit_rows(image) * unit_rows(few.image)).sum(-1).min() > 0.999
