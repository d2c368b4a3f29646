"""transformers.js finds its files, and gives our ids, embeddings and classes."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

import d4c
from d4c.deployment.layouts.transformers_js import dtype_of
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.inputs.tokenizer import token_ids
from d4c.models.tower_config import TextConfig, ViTConfig
from d4c.quantization.quantized import QuantizedCLIP
from d4c.zeroshot.classification import unit_rows

NODE = Path(__file__).with_name("node")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PORTS = {
    "model": ({"pixel_values", "input_ids"}, ["logits_per_image", "logits_per_text", "text_embeds", "image_embeds"]),
    "vision_model": ({"pixel_values"}, ["image_embeds"]),
    "text_model": ({"input_ids"}, ["text_embeds"]),
}
"""Inputs and outputs of the files that its classes for CLIP read."""


def test_files_have_the_names_that_the_library_looks_for(export_for: Callable[..., Path]) -> None:
    folder = export_for("transformers.js")
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["transformers.js_config"]) == ("clip", {"dtype": "q4"})
    for name, (inputs, outputs) in PORTS.items():
        session = onnxruntime.InferenceSession(folder / "onnx" / f"{name}_q4.onnx")
        assert {x.name for x in session.get_inputs()} == inputs
        assert [x.name for x in session.get_outputs()] == outputs


@pytest.mark.parametrize(("scheme", "dtype"), [("W4A8", "q4"), ("W6A6", "q8")])
def test_the_name_says_the_bits_of_most_weights(
    quantize: Callable[..., QuantizedCLIP], scheme: str, dtype: str
) -> None:
    """The token table, most of this model, has 8 bits in every scheme."""
    config = CLIPConfig(16, ViTConfig(16, 8, 32, 1, 2, 64), TextConfig(width=32, layers=1, heads=2, mlp_width=64))
    assert dtype_of(quantize(CLIP(config, "tiny").eval(), scheme), None) == dtype


def test_weights_are_signed_which_processors_without_vnni_multiply_faster(export_for: Callable[..., Path]) -> None:
    graph = onnx.load(export_for("transformers.js") / "onnx" / "vision_model_q4.onnx").graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    zeros = {node.input[2] for node in graph.node if node.output[0].endswith("/weight_values") and len(node.input) > 2}
    assert zeros
    assert {types[name] for name in zeros} == {onnx.TensorProto.INT8}


def test_the_joint_graph_gives_logits(export_for: Callable[..., Path], few: Any, ours: Any) -> None:
    session = onnxruntime.InferenceSession(export_for("transformers.js") / "onnx" / "model_q4.onnx")
    pixels = np.stack([ours.preprocess(path) for path in few.pictures[:9]])
    feeds = {"pixel_values": pixels, "input_ids": ours.tokenize(few.prompts)}
    by_image, by_text, text, image = session.run(None, feeds)
    assert by_image.shape == (9, len(few.prompts))
    assert np.array_equal(by_image, by_text.T)
    assert np.allclose(by_image, ours.logit_scale * image @ text.T, atol=1e-3)
    assert (cosine(image, few.image[:9]) > 0.999).all()
    assert (cosine(text, few.text) > 0.999).all()


def cosine(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    return (unit_rows(a) * unit_rows(b)).sum(-1)


@pytest.mark.skipif(not (NODE / "node_modules").is_dir(), reason="needs Node; make test-dropin installs it")
def test_node_gives_our_classes_and_embeddings(trained_for: Callable[..., Path], pack_in: Any) -> None:
    """The pipeline and both models, on the whole emoji pack; its pictures need no scaling."""
    node, pack = shutil.which("node"), pack_in("onnxruntime")
    assert node is not None
    folder = trained_for("transformers.js")
    given = {"pictures": [str(path) for path in pack.pictures], "labels": pack.labels, "template": "a {} icon"}
    command = [node, str(NODE / "classify.mjs"), str(folder.parent), folder.name]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    rows = token_ids(pack.prompts)
    end = int((rows == 49407).argmax(-1).max()) + 1
    theirs = np.array(found["ids"])
    expected = rows[:, :end]
    # Padding is end of text there and 0 here.
    assert np.array_equal(np.where(expected == 0, 49407, expected), theirs)
    assert found["classes"] == pack.classes
    assert np.allclose(found["image"], pack.image, atol=1e-4)
    assert np.allclose(found["text"], pack.text, atol=1e-4)


@pytest.mark.skipif(
    CHROMIUM is None or not (NODE / "node_modules" / "playwright-core").is_dir(),
    reason="needs Chromium, and Node packages that make test-dropin installs",
)
def test_chromium_gives_our_embeddings_and_webgpu_those_of_the_cpu(
    artifact: Path, pack_in: Any, tmp_path: Path
) -> None:
    """WASM computes our integers; WebGPU, here without a GPU, the packed weights as WASM does."""
    pack = pack_in("onnxruntime")
    folder = d4c.export(artifact, tmp_path / "clip", target="transformers.js", webgpu=True, check=False).folder
    choices = [{}, {"device": "wasm", "dtype": "q4"}, {"device": "webgpu"}]
    given = {"pictures": [str(path) for path in pack.pictures[:16]], "choices": choices}
    command = [str(shutil.which("node")), str(NODE / "chromium.mjs"), str(CHROMIUM), str(tmp_path), folder.name]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert not [answer for answer in found["embeddings"] if isinstance(answer, str)]
    integers, packed, on_gpu = (np.array(rows) for rows in found["embeddings"])
    assert cosine(integers, pack.image[:16]).min() > 0.999
    assert found["gpu"] is not None
    assert cosine(on_gpu, packed).min() > 0.99999
    assert np.abs(on_gpu - packed).max() < 1e-3
