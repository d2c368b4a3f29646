"""Layouts of servers that cannot be installed here: the facts of their source that loading rests on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from d4c.zeroshot.classification import unit_rows

ExportFor = Callable[..., Path]
PARTS = ("visual", "textual")


def ports(session: Any) -> tuple[dict[str, tuple[str, list[Any]]], dict[str, tuple[str, list[Any]]]]:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    return {x.name: (x.type, x.shape) for x in inputs}, {x.name: (x.type, x.shape) for x in outputs}


def test_immich_finds_its_ports(export_for: ExportFor) -> None:
    visual, textual = (onnxruntime.InferenceSession(export_for("immich") / f"{part}/model.onnx") for part in PARTS)
    embedding = {"embedding": ("tensor(float)", [1, 32])}
    assert ports(visual) == ({"image": ("tensor(float)", [1, 3, 64, 64])}, embedding)
    assert ports(textual) == ({"text": ("tensor(int32)", [1, 77])}, embedding)


def test_immich_gives_our_embeddings_of_unit_length(
    export_for: ExportFor, immich: Any, few: Any, ours: Any, tmp_path: Path
) -> None:
    """Of prompts, of square pictures and of one that it crops."""
    model, wide = immich(export_for("immich")), tmp_path / "wide.png"
    Image.open(few.pictures[0]).resize((96, 64)).save(wide)
    wide_row = ours.encode_image([ours.preprocess(wide)])[0]
    cases = [(model.image(wide), wide_row)]
    cases += [(model.image(path), row) for path, row in zip(few.pictures[:6], few.image, strict=False)]
    cases += [(model.text(prompt), row) for prompt, row in zip(few.prompts[:6], few.text, strict=False)]
    for theirs, row in cases:
        assert theirs @ unit_rows(row[None])[0] > 0.999
        assert np.linalg.norm(theirs) == pytest.approx(1, abs=1e-5)


def test_clip_as_service_gets_one_output_of_each_file(export_for: ExportFor, few: Any, ours: Any) -> None:
    """It feeds pixel_values and int32 input_ids, and unpacks a list of one output."""
    folder = export_for("clip-as-service")
    textual, visual = (onnxruntime.InferenceSession(folder / f"{name}.onnx") for name in ("textual", "visual"))
    (text,) = textual.run(None, {"input_ids": ours.tokenize(few.prompts).astype(np.int32)})
    (image,) = visual.run(None, {"pixel_values": np.stack([ours.preprocess(path) for path in few.pictures])})
    assert (unit_rows(text) * unit_rows(few.text)).sum(-1).min() > 0.999
    assert (unit_rows(image) * unit_rows(few.image)).sum(-1).min() > 0.999
