"""Looks into an ONNX file before a runtime gets it: only the parts and operators that d4c writes pass.

A graph is a program. Loops, functions, operators of other domains and tensors in other files are refused, so that what
passes ends and reads nothing else. The format is that of protocol buffers: fields as (number, wire type) and content.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

# fmt: off
OPERATORS = frozenset((
    "Add", "ArgMax", "AveragePool", "BatchNormalization", "BitShift", "BitwiseAnd", "Cast",
    "Clip", "Concat", "Conv", "DequantizeLinear", "Div", "Equal", "Floor",
    "Gather", "GatherND", "Gelu", "Identity", "LayerNormalization", "MatMul", "Max",
    "Mul", "Pad", "QuantizeLinear", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceSum",
    "Relu", "Reshape", "Shape", "Sigmoid", "Slice", "Softmax", "Split",
    "Squeeze", "Sub", "Transpose", "Unsqueeze",
))
# fmt: on
"""Every operator of the standard that `d4c.deployment.onnx` emits."""
RUNTIME_DOMAIN = "com.microsoft"
RUNTIME_OPERATORS = frozenset(("MatMulNBits",))
"""Those that only ONNX Runtime defines; exports for our own runtimes have none."""

ORIGIN = "d4c.artifact"
"""Key of the metadata that name the artifact which a graph was made from."""
FLOAT, INT64 = 1, 7
"""Types of elements, of TensorProto.DataType."""
MOST_NODES = 100_000

# Numbers of fields in onnx.proto.
_MODEL = {1: "ir_version", 2: "producer_name", 3: "producer_version", 7: "graph", 8: "opset_import", 14: "metadata"}
_GRAPH = {1: "node", 2: "name", 5: "initializer", 11: "input", 12: "output", 13: "value_info"}
_NODE = {1: "input", 2: "output", 3: "name", 4: "op_type", 5: "attribute", 7: "domain"}
_ATTRIBUTE = {1: "name", 2: "f", 3: "i", 4: "s", 5: "t", 7: "floats", 8: "ints", 9: "strings", 20: "type"}
_TENSOR = {1: "dims", 2: "data_type", 4: "float_data", 5: "int32_data", 7: "int64_data", 8: "name", 9: "raw_data"}
_PAIR = {1: "key", 2: "value"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Foreign(ValueError):
    """A file is not an ONNX graph that d4c wrote; the message is a clause that says why."""


class Value(NamedTuple):
    """An input or an output: its element type as a number of TensorProto.DataType, and sizes, -1 where they vary."""

    kind: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class GraphSummary:
    """What is known of a graph without a runtime."""

    inputs: dict[str, Value]
    outputs: dict[str, Value]
    metadata: dict[str, str]


def read_summary(file: Path) -> GraphSummary:
    """Walk over an ONNX file.

    Args:
        file: The file.

    Returns:
        Its inputs, outputs and metadata.

    Raises:
        Foreign: It is not an ONNX graph, or holds something that d4c does not write.
        OSError: It cannot be read.
    """
    model = _fields(memoryview(file.read_bytes()), _MODEL, "the model")
    graphs = [value for name, value in model if name == "graph"]
    if len(graphs) != 1:
        raise Foreign(f"it holds {len(graphs)} graphs, expected one")
    inputs: dict[str, Value] = {}
    outputs: dict[str, Value] = {}
    nodes = 0
    for name, value in _fields(_message(graphs[0]), _GRAPH, "the graph"):
        match name:
            case "node":
                nodes += 1
                _check_node(_message(value))
            case "initializer":
                list(_fields(_message(value), _TENSOR, "a tensor"))
            case "input" | "output":
                label, described = _value(_message(value))
                (inputs if name == "input" else outputs)[label] = described
    if nodes > MOST_NODES:
        raise Foreign(f"it holds {nodes} nodes, expected at most {MOST_NODES}")
    pairs = [dict(_fields(_message(value), _PAIR, "the metadata")) for name, value in model if name == "metadata"]
    return GraphSummary(inputs, outputs, {_text(pair.get("key", b"")): _text(pair.get("value", b"")) for pair in pairs})


Content = int | memoryview | bytes


def _check_node(node: memoryview) -> None:
    """Raise Foreign for an operator that d4c does not emit, or one that holds another graph."""
    fields = _fields(node, _NODE, "a node")
    named = {name: _text(value) for name, value in fields if name in ("op_type", "domain")}
    operator, domain = named.get("op_type", ""), named.get("domain", "")
    if domain not in ("", RUNTIME_DOMAIN):
        raise Foreign(f"it holds an operator of the domain {domain[:60]!r}, which d4c does not write")
    if operator not in (RUNTIME_OPERATORS if domain else OPERATORS):
        raise Foreign(f"it holds the operator {operator[:60]!r}, which d4c does not write")
    for name, value in fields:
        if name == "attribute":
            for part, tensor in _fields(_message(value), _ATTRIBUTE, "an attribute"):
                if part == "t":
                    list(_fields(_message(tensor), _TENSOR, "a tensor"))


def _value(message: memoryview) -> tuple[str, Value]:
    """The name, type and shape in a ValueInfoProto."""
    info = dict(_fields(message, {1: "name", 2: "type"}, "an input or output"))
    kind = dict(_fields(_message(info.get("type", b"")), {1: "tensor"}, "a type"))
    tensor = dict(_fields(_message(kind.get("tensor", b"")), {1: "element", 2: "shape"}, "a type"))
    dimensions = _fields(_message(tensor.get("shape", b"")), {1: "dimension"}, "a shape")
    sizes = [dict(_fields(_message(value), {1: "size", 2: "symbol"}, "a dimension")) for _, value in dimensions]
    shape = tuple(_number(size.get("size", -1)) for size in sizes)
    return _text(info.get("name", b"")), Value(_number(tensor.get("element", 0)), shape)


def _fields(message: memoryview, known: dict[int, str], what: str) -> list[tuple[str, Content]]:
    """The fields of a message by name; raises Foreign for one that is not known."""
    named = []
    for number, value in _raw_fields(message):
        if number not in known:
            raise Foreign(f"{what} has the field {number}, which d4c does not write")
        named.append((known[number], value))
    return named


def _raw_fields(message: memoryview) -> Iterator[tuple[int, Content]]:
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(wire, 0)
        if wire == _BYTES:
            length, at = _varint(message, at)
        elif not length:
            raise Foreign(f"it is not an ONNX graph (wire type {wire})")
        if length > len(message) - at:
            raise Foreign("it is truncated or garbled")
        yield tag >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of at most ten bytes with seven bits each, and the position after it."""
    value = 0
    for i, byte in enumerate(message[at : at + 10]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value, at + i + 1
    raise Foreign("it is truncated or garbled")


def _message(content: Content) -> memoryview:
    if isinstance(content, int):
        raise Foreign("it is garbled")
    return memoryview(content)


def _number(content: Content) -> int:
    if not isinstance(content, int):
        raise Foreign("it is garbled")
    return content


def _text(content: Content) -> str:
    return str(_message(content), "utf-8", "backslashreplace")
