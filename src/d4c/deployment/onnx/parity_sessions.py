"""ONNX Runtime sessions of a graph and of its parts, and what the optimizer made of them."""

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


def open_session(model: bytes | Path, optimized: Path | None = None, *, wide_sums: bool = False) -> Any:
    """A CPU session with the optimizations and the sums that the runtime of an export has.

    Args:
        model: A serialized graph, or a file that holds one.
        optimized: File to write the optimized graph to.
        wide_sums: Whether products are added beyond 16 bits, see `d4c.runtime.sessions`.

    Raises:
        SettingError: If this ONNX Runtime cannot read the graph.
    """
    return sessions.open_session(model, OPSET, optimized=optimized, wide_sums=wide_sums)


def run(session: Any, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """All outputs of a session, in their order."""
    return list(session.run(None, dict(feeds)))


def kernels(model: Path, products: Mapping[str, str], *, wide_sums: bool) -> dict[str, str]:
    """The node type that computes each layer's product once ONNX Runtime has optimized the graph.

    Args:
        model: File of the graph.
        products: Names of the nodes in the file, by layer.
        wide_sums: As `open_session` takes it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        open_session(model, path, wide_sums=wide_sums)
        nodes = onnx.load(path).graph.node
    # The optimizer appends to the name of a node that it replaces.
    types = {node.name.partition("_token_")[0].removesuffix("_nchwc"): node.op_type for node in nodes}
    return {layer: types.get(product, "folded") for layer, product in products.items()}
