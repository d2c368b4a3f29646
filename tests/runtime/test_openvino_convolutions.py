"""Linear layers as convolutions compute the same integers, and are what OpenVINO gets on processors without VNNI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from d4c.runtime import sessions
from d4c.runtime.openvino_convolutions import use_convolutions
from d4c.runtime.processor import VARIABLE
from d4c.runtime.runtime_clip import RuntimeCLIP
from d4c.runtime.sessions import openvino_graph

PROMPTS = ["a photo of a dog", "a very long sentence about a cat in the snow, seen from far away", "tree"]


@pytest.mark.parametrize("tower", ["image", "text"])
def test_embeddings_stay_as_they_are(tower: str, exported: Path, model: RuntimeCLIP) -> None:
    inputs: Any = model.tokenize(PROMPTS)
    if tower == "image":
        inputs = np.random.default_rng(0).standard_normal((3, 3, 64, 64), np.float32)
    linear, convolutional = (
        openvino_graph(exported / f"{tower}.onnx", model.exported.opset, 1, convolutions=convolutions)
        for convolutions in (False, True)
    )
    for rows in (inputs, inputs[1:2]):
        expected, computed = linear(rows), convolutional(rows)
        lengths = np.linalg.norm(expected, axis=1) * np.linalg.norm(computed, axis=1)
        # The same to the last bit, but for processors on which both round sums of float32 differently.
        assert ((expected * computed).sum(1) / lengths).min() > 0.98


@pytest.mark.parametrize("tower", ["image", "text"])
def test_axes_are_not_permuted_inside_an_mlp(tower: str, exported: Path) -> None:
    graph = openvino.Core().read_model(exported / f"{tower}.onnx")
    use_convolutions(graph)
    last_layers = [node for node in graph.get_ordered_ops() if node.get_friendly_name().endswith("mlp.fc2/product")]
    assert last_layers
    for node in last_layers:
        kinds = [node.get_type_name()]
        while kinds.count("Convolution") < 2:
            node = node.input_value(0).get_node()
            kinds.append(node.get_type_name())
        assert "Transpose" not in kinds


@pytest.mark.parametrize(("pairs", "used"), [("1", True), ("0", False)], ids=["without VNNI", "with VNNI"])
def test_the_processor_decides(pairs: str, used: bool, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen by its calls, which go through."""
    layers = []
    monkeypatch.setenv(VARIABLE, pairs)
    monkeypatch.setattr(sessions, "use_convolutions", lambda graph: layers.append(use_convolutions(graph)))
    RuntimeCLIP(exported, "openvino")
    assert bool(layers) is used
    assert all(count > 10 for count in layers)
