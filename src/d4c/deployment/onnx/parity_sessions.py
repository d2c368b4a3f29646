"""ONNX Runtime sessions, and what its optimizer made of a graph."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from d4c.deployment.onnx.graph import OPSET
from d4c.runtime import sessions

INTEGER_KERNELS = {"MatMulInteger", "MatMulIntegerToFloat", "QGemm", "QLinearConv", "QLinearMatMul"}


def open_session(model: bytes | Path, optimized: Path | None = None) -> Any:
    """A CPU session with default optimizations, whose graph goes to `optimized` as well.

    Raises SettingError if this ONNX Runtime cannot read the graph.
    """
    return sessions.open_session(model, OPSET, optimized=optimized)


def run(session: Any, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    return list(session.run(None, dict(feeds)))


def kernels(model: Path, products: Mapping[str, str]) -> dict[str, str]:
    """The node type that computes each layer's product once ONNX Runtime has optimized the graph.

    `products` are the names of the nodes in the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        open_session(model, path)
        nodes = onnx.load(path).graph.node
    # The optimizer appends to the name of a node that it replaces.
    types = {node.name.partition("_token_")[0].removesuffix("_nchwc"): node.op_type for node in nodes}
    return {layer: types.get(product, "folded") for layer, product in products.items()}
