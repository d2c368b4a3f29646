"""Opens one graph in one runtime as a function of an array.

ONNX Runtime and OpenVINO compute the same integers; everything else stays float32 in both.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d4c.errors import SettingError, require

Graph = Callable[[NDArray[Any]], NDArray[np.float32]]


def onnxruntime_graph(file: Path, opset: int, *, wide_sums: bool) -> Graph:
    """Open a graph with one input and one output in ONNX Runtime on the CPU; any number of threads may call it.

    Args:
        file: The ONNX file.
        opset: Its opset, for the error message.
        wide_sums: Avoid 16-bit sums of products, which is slower.

    Returns:
        The graph as a function.

    Raises:
        SettingError: This ONNX Runtime cannot read the graph.
    """
    session = open_session(file, opset, wide_sums=wide_sums)
    name = session.get_inputs()[0].name
    return lambda values: np.asarray(session.run(None, {name: values})[0])


def open_session(model: bytes | Path, opset: int, *, optimized: Path | None = None, wide_sums: bool = False) -> Any:
    """Open an ONNX Runtime session on the CPU with default optimizations.

    Args:
        model: A serialized graph, or a file that holds one.
        opset: Its opset, for the error message.
        optimized: File to write the optimized graph to.
        wide_sums: Avoid 16-bit sums of products, which is slower.

    Returns:
        The session.

    Raises:
        SettingError: This ONNX Runtime cannot read the graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    if wide_sums:
        options.add_session_config_entry("session.x64quantprecision", "1")
    source = str(model) if isinstance(model, Path) else model
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class
        raise _unreadable(model, opset, "ONNX Runtime", onnxruntime.__version__, "onnxruntime", error) from None


def openvino_graph(file: Path, opset: int) -> Graph:
    """Open a graph with one input and one output in OpenVINO on the CPU; any number of threads may call it.

    Args:
        file: The ONNX file.
        opset: Its opset, for the error message.

    Returns:
        The graph as a function.

    Raises:
        SettingError: OpenVINO is not installed or cannot read the graph.
    """
    openvino = require("openvino", "openvino", "The runtime 'openvino' needs")
    core = openvino.Core()
    try:
        # By default it computes in bfloat16 on processors that can.
        compiled = core.compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except Exception as error:
        raise _unreadable(file, opset, "OpenVINO", openvino.__version__, "openvino", error) from None
    idle: SimpleQueue[Any] = SimpleQueue()

    def run(values: NDArray[Any]) -> NDArray[np.float32]:
        # A request computes one input at a time, so that each thread takes an idle one or a new one.
        try:
            request = idle.get_nowait()
        except Empty:
            request = compiled.create_infer_request()
        result = np.array(request.infer([values])[0])  # a copy, since the request keeps its output
        idle.put(request)
        return result

    return run


def _unreadable(
    model: bytes | Path, opset: int, name: str, version: str, package: str, error: Exception
) -> SettingError:
    graph = model if isinstance(model, Path) else "what d4c wrote"
    reason = " ".join(str(error).split())
    return SettingError(
        f"{name} {version} cannot load {graph}, a graph of opset {opset} ({reason}); install a newer {package}."
    )
