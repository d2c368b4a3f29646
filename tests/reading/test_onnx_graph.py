"""Graphs with anything that d4c does not write are refused before a runtime sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from d4c.reading.onnx_graph import FLOAT, Foreign, Value, read_summary

PIXELS = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3])
EMBEDDING = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 3])


def sound() -> ModelProto:
    weight = numpy_helper.from_array(np.ones(3, np.float32), "weight")
    node = helper.make_node("Mul", ["pixels", "weight"], ["embedding"])
    graph = helper.make_graph([node], "image", [PIXELS], [EMBEDDING], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    helper.set_model_props(model, {"key": "value"})
    return model


def loop(model: ModelProto) -> None:
    condition = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
    count = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    again = helper.make_tensor_value_info("again", TensorProto.BOOL, [])
    body = helper.make_graph([helper.make_node("Identity", ["go"], ["again"])], "b", [count, condition], [again])
    model.graph.node.append(helper.make_node("Loop", ["", "true"], ["x"], body=body))


def subgraph(model: ModelProto) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("body", model.graph))


def elsewhere(model: ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")


ATTACKS: dict[str, tuple[Callable[[ModelProto], object], str]] = {
    "a loop": (loop, "the operator 'Loop', which d4c does not write"),
    "a giant tensor": (
        lambda m: m.graph.node.append(helper.make_node("ConstantOfShape", ["size"], ["x"])),
        "the operator 'ConstantOfShape'",
    ),
    "a graph in an operator that passes": (subgraph, "an attribute has the field 6"),
    "another domain": (
        lambda m: m.graph.node.append(helper.make_node("Add", ["a", "b"], ["x"], domain="com.evil")),
        "an operator of the domain 'com.evil'",
    ),
    "a tensor in another file": (elsewhere, "a tensor has the field 1[34]"),
    "a function": (
        lambda m: m.functions.append(helper.make_function("d", "f", ["x"], ["y"], [], [])),
        "the model has the field 25",
    ),
    "no graph": (lambda m: m.ClearField("graph"), "it holds 0 graphs"),
}


def test_a_sound_graph_is_described(tmp_path: Path) -> None:
    onnx.save(sound(), tmp_path / "a.onnx")
    summary = read_summary(tmp_path / "a.onnx")
    assert summary.inputs == {"pixels": Value(FLOAT, (-1, 3))}
    assert summary.outputs == {"embedding": Value(FLOAT, (-1, 3))}
    assert summary.metadata == {"key": "value"}


@pytest.mark.parametrize(("change", "about"), ATTACKS.values(), ids=ATTACKS)
def test_programs_are_refused(change: Callable[[ModelProto], object], about: str, tmp_path: Path) -> None:
    model = sound()
    change(model)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(Foreign, match=about):
        read_summary(tmp_path / "a.onnx")


def test_every_truncation_is_read_or_refused(tmp_path: Path) -> None:
    whole = sound().SerializeToString()
    for length in range(len(whole)):
        (tmp_path / "a.onnx").write_bytes(whole[:length])
        try:
            read_summary(tmp_path / "a.onnx")
        except Foreign:
            continue
