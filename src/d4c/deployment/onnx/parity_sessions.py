"""Runs graphs and their parts in ONNX Runtime, and reads which kernels the optimizer chose."""

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
    """Open a CPU session with the optimizations and the sums that the runtime of an export has.

    Args:
        model: A serialized graph, or a file that holds one.
        optimized: File to write the optimized graph to.
        wide_sums: Avoid 16-bit sums of products, see `d4c.runtime.sessions`.

    Returns:
        The session.

    Raises:
        SettingError: This ONNX Runtime cannot read the graph.
    """
    return sessions.open_session(model, OPSET, optimized=optimized, wide_sums=wide_sums)


def run(session: Any, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """Return all outputs of a session, in their order."""
    return list(session.run(None, dict(feeds)))


def kernels(model: Path, products: Mapping[str, str], *, wide_sums: bool) -> dict[str, str]:
    """Return the type of the node that computes each layer's product after ONNX Runtime has optimized the graph.

    Args:
        model: File of the graph.
        products: Names of the nodes in the file, by layer.
        wide_sums: Avoid 16-bit sums of products.

    Returns:
        Node types by layer; "folded" where no node is left.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        open_session(model, path, wide_sums=wide_sums)
        nodes = onnx.load(path).graph.node
    # The optimizer appends to the name of a node that it replaces.
    types = {node.name.partition("_token_")[0].removesuffix("_nchwc"): node.op_type for node in nodes}
    return {layer: types.get(product, "folded") for layer, product in products.items()}
