"""Opens one graph in one runtime as a function of an array.

ONNX Runtime and OpenVINO compute the same integers; everything else stays float32 in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d4c.errors import SettingError, require
from d4c.runtime.openvino_convolutions import use_convolutions

Graph = Callable[[NDArray[Any]], NDArray[np.float32]]
Provider = str | tuple[str, dict[str, Any]]
"""The name of an execution provider of ONNX Runtime, such as "CUDAExecutionProvider", or its name and options."""

MOST_THREADS = 1024
CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Execution:
    """Where, and on how many threads, a runtime computes.

    Args:
        threads: Threads of one call; None for as many as the runtime takes by itself.
        providers: Execution providers of ONNX Runtime, the preferred one first; what none of them can, the CPU
            computes.
    """

    threads: int | None = None
    providers: tuple[Provider, ...] = ()

    def __post_init__(self) -> None:
        threads = self.threads
        if threads is not None and (type(threads) is not int or not 1 <= threads <= MOST_THREADS):
            raise SettingError(
                f"The number of threads is {threads!r}, expected a whole number from 1 to {MOST_THREADS}; leave it out "
                "for as many as the runtime takes by itself."
            )


def onnxruntime_graph(file: Path, opset: int, *, wide_sums: bool, execution: Execution | None = None) -> Graph:
    """Open a graph with one input and one output in ONNX Runtime; any number of threads may call it.

    Args:
        file: The ONNX file.
        opset: Its opset, for the error message.
        wide_sums: Avoid 16-bit sums of products, which is slower.
        execution: Threads and execution providers.

    Returns:
        The graph as a function.

    Raises:
        SettingError: This ONNX Runtime cannot read the graph, or lacks a provider.
    """
    session = open_session(file, opset, wide_sums=wide_sums, execution=execution)
    name = session.get_inputs()[0].name
    return lambda values: np.asarray(session.run(None, {name: values})[0])


def open_session(
    model: bytes | Path,
    opset: int,
    *,
    optimized: Path | None = None,
    wide_sums: bool = False,
    execution: Execution | None = None,
) -> Any:
    """Open an ONNX Runtime session with default optimizations.

    Args:
        model: A serialized graph, or a file that holds one.
        opset: Its opset, for the error message.
        optimized: File to write the optimized graph to.
        wide_sums: Avoid 16-bit sums of products, which is slower.
        execution: Threads and execution providers; by default the CPU.

    Returns:
        The session.

    Raises:
        SettingError: This ONNX Runtime cannot read the graph, or lacks a provider.
    """
    import onnxruntime

    execution = execution or Execution()
    asked = _check_providers(execution.providers, onnxruntime.get_available_providers(), onnxruntime.__version__)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    if wide_sums:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if execution.threads is not None:
        options.intra_op_num_threads = execution.threads
    source = str(model) if isinstance(model, Path) else model
    try:
        providers = [*execution.providers, *([] if CPU in asked else [CPU])]
        session = onnxruntime.InferenceSession(source, options, providers=providers)
    except Exception as error:  # its exceptions share no base class
        raise _unreadable(model, opset, "ONNX Runtime", onnxruntime.__version__, "onnxruntime", error) from None
    # A provider whose libraries or device are missing is left out without an error.
    if missing := [name for name in asked if name not in session.get_providers()]:
        raise SettingError(
            f"ONNX Runtime has the execution provider {missing[0]}, but cannot start it here; install its driver and "
            "libraries, or leave it out."
        )
    return session


def _check_providers(providers: tuple[Provider, ...], available: list[str], version: str) -> list[str]:
    """The names of execution providers; raises SettingError for one that the installed ONNX Runtime does not have."""
    names = [provider if isinstance(provider, str) else provider[0] for provider in providers]
    for name in names:
        if name not in available:
            raise SettingError(
                f"ONNX Runtime {version} as it is installed here has no execution provider {name!r}, only "
                f"{', '.join(available)}; install a build that has it, such as onnxruntime-gpu, or leave it out."
            )
    return names


def openvino_graph(file: Path, opset: int, threads: int | None = None, *, convolutions: bool = False) -> Graph:
    """Open a graph with one input and one output in OpenVINO on the CPU; any number of threads may call it.

    Args:
        file: The ONNX file.
        opset: Its opset, for the error message.
        threads: Threads of one call; None for as many as OpenVINO takes by itself.
        convolutions: Compute linear layers as convolutions, which is faster on processors without VNNI.

    Returns:
        The graph as a function.

    Raises:
        SettingError: OpenVINO is not installed or cannot read the graph.
    """
    openvino = require("openvino", "openvino", "The runtime 'openvino' needs")
    core = openvino.Core()
    # By default it computes in bfloat16 on processors that can.
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        model = core.read_model(file)
        if convolutions:
            use_convolutions(model)
        compiled = core.compile_model(model, "CPU", settings)
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
