"""`Graph`: an ONNX graph under construction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from torch import Tensor

from d4c.reading.onnx_graph import OPERATORS, ORIGIN, RUNTIME_DOMAIN, RUNTIME_OPERATORS

OPSET = 21
"""The first opset with 4-bit integers; nothing here needs a later one, so that older runtimes read the files too."""
IR_VERSION = 10

Shape = Sequence[int | str]


@dataclass(frozen=True)
class Layer:
    """The tensors that correspond to a module of the PyTorch model.

    Args:
        inputs: Tensors that the module reads.
        output: Tensor that it writes.
        factor: What the module's output is multiplied with in the graph.
    """

    inputs: tuple[str, ...]
    output: str
    factor: float = 1.0


@dataclass(frozen=True)
class NarrowTable:
    """A table [V, C] of 4-bit codes.

    Attributes:
        codes: From 0 to 15, 8 for zero, uint8 [V, C].
        levels: Scales of groups of columns, in units of `steps`, int8 [V, groups].
        steps: float32 [V, 1].
    """

    codes: Tensor
    levels: Tensor
    steps: Tensor

    def values(self) -> Tensor:
        """What the codes stand for [V, C]."""
        scales = (self.levels.float() * self.steps)[..., None]
        return ((self.codes.float() - 8).view(*self.levels.shape, -1) * scales).view(self.codes.shape)

    def rows(self, indices: Tensor) -> NarrowTable:
        """Some of its rows."""
        return NarrowTable(self.codes[indices], self.levels[indices], self.steps[indices])


class Graph:
    """Nodes and constants in order of execution; every method that adds one returns the name of a tensor.

    A node has the name of the tensor that it computes, and tensors are named after the modules of the PyTorch model.
    `layers` maps each module to the tensors that it reads and writes, so that the two can be compared part by part.
    `products` maps each quantized layer, and <layer>/loud and <layer>/class_token where it has such inputs, to the node
    that multiplies.
    `rows` are tensors with a single row of the module's. With `all_rows`, `read` are the states that users of a tower
    alone read, by the name of the output, with their shapes.

    Args:
        name: Name of the graph.
        unpacked: Store all weights as int8.
        bytes_only: Use no 4-bit types, which runtimes in browsers cannot cast; 5 and 6 bits are stored as int8.
        weights_only: Leave activations in floating point and write products as MatMulNBits.
        narrow_table: What to store instead of the token table.
        masked: Score of a position that may not be attended to.
        all_rows: Compute all rows of the last block, not only the one that reaches the embedding.
    """

    def __init__(
        self,
        name: str,
        unpacked: bool = False,
        *,
        bytes_only: bool = False,
        weights_only: bool = False,
        narrow_table: NarrowTable | None = None,
        masked: float = float("-inf"),
        all_rows: bool = False,
    ) -> None:
        self.name, self.unpacked = name, unpacked
        self.bytes_only, self.narrow_table = bytes_only, narrow_table
        self.weights_only, self.masked, self.all_rows = weights_only, masked, all_rows
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self.inputs: list[ValueInfoProto] = []
        self.outputs: list[ValueInfoProto] = []
        self.states: list[ValueInfoProto] = []
        self.layers: dict[str, Layer] = {}
        self.products: dict[str, str] = {}
        self.rows: list[str] = []
        self.read: list[tuple[str, str, Shape]] = []
        self.quantized: dict[tuple[str, int], str] = {}
        self.class_tokens: dict[str, tuple[str, str]] = {}

    def input(self, name: str, dtype: int, shape: Shape) -> str:
        """Declare an input of the graph."""
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, shape: Shape) -> str:
        """Declare a float output of the graph."""
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def state(self, name: str, shape: Shape) -> str:
        """Declare the shape of a float tensor between two stages of a tower, where the graph can be cut."""
        self.states.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Append one node with one output, of the default domain unless ONNX Runtime defines the operator."""
        assert op in OPERATORS | RUNTIME_OPERATORS, f"readers refuse {op}; list it in d4c.reading.onnx_graph"
        domain = RUNTIME_DOMAIN if op in RUNTIME_OPERATORS else None
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, domain=domain, **attributes))
        return name

    def split(self, x: str, sizes: str, names: Sequence[str]) -> list[str]:
        """Split a tensor along its last axis into parts whose sizes are a tensor as well."""
        self.nodes.append(helper.make_node("Split", [x, sizes], list(names), name=f"{x}/split", axis=-1))
        return list(names)

    def constant(self, name: str, value: NDArray[Any] | Tensor) -> str:
        """Store an array of float32 or integers under a name; storing the same name again keeps the first."""
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        self.constants.setdefault(name, numpy_helper.from_array(np.asarray(array), name))
        return name

    def int4(self, name: str, codes: NDArray[np.int8], signed: bool) -> str:
        """Store 4-bit integers two to a byte, the first in the lower half."""
        flat = codes.reshape(-1).astype(np.uint8) & 15
        flat = np.append(flat, np.zeros(flat.size % 2, np.uint8))
        kind = TensorProto.INT4 if signed else TensorProto.UINT4
        raw = (flat[0::2] | flat[1::2] << 4).tobytes()
        self.constants[name] = TensorProto(name=name, data_type=kind, dims=codes.shape, raw_data=raw)
        return name

    def integers(self, *values: int) -> str:
        """Store a constant int64 vector, such as a shape."""
        return self.constant("integers/" + "_".join(map(str, values)), np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        """Store a constant float32 number."""
        return self.constant(f"scalar/{value}", np.array(value, np.float32))

    def reshape(self, x: str, shape: Sequence[int], name: str) -> str:
        """Append a Reshape; 0 keeps a dimension, -1 takes what is left."""
        return self.node("Reshape", [x, self.integers(*shape)], name)

    def record(
        self, name: str, inputs: tuple[str, ...], output: str, product: str | None = None, factor: float = 1.0
    ) -> str:
        """Note the tensors of a module, and the node that multiplies if it is quantized; return its result."""
        self.layers[name] = Layer(inputs, output, factor)
        if product is not None:
            self.products[name] = product
        return output

    def model(self, version: str, origin: str = "") -> ModelProto:
        """Return the complete model, as written by this version of d4c from the artifact with this hash."""
        graph = helper.make_graph(
            self.nodes,
            self.name,
            self.inputs,
            self.outputs,
            list(self.constants.values()),
            value_info=self.states,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        if any(node.domain == RUNTIME_DOMAIN for node in self.nodes):
            opsets.append(helper.make_opsetid(RUNTIME_DOMAIN, 1))
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="d4c", producer_version=version
        )
        helper.set_model_props(model, {ORIGIN: origin})
        return model
