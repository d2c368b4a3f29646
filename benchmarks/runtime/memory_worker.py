"""What a process holds with one graph: python -m benchmarks.runtime.memory_worker RUNTIME GRAPH INPUTS.npy THREADS FORM

The graph is opened as `d4c.load_quantized` opens it, FORM being "convolutions" or "linear", and called twice. Prints
megabytes beyond the runtime without a graph: the most while loading, and what is held after the calls.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.dropin.worker import memory
from d4c.runtime.sessions import Execution, onnxruntime_graph, openvino_graph

OPSET = 21


def main() -> None:
    runtime, file, inputs, threads, form = sys.argv[1:]
    importlib.import_module(runtime)
    values = np.load(inputs)
    idle = memory("VmRSS")
    if runtime == "openvino":
        graph = openvino_graph(Path(file), OPSET, int(threads), convolutions=form == "convolutions")
    else:
        graph = onnxruntime_graph(Path(file), OPSET, wide_sums=False, execution=Execution(int(threads)))
    load = memory("VmHWM") - idle
    for _ in range(2):
        graph(values)
    print(json.dumps({"idle": idle, "load": load, "use": memory("VmRSS") - idle}))


if __name__ == "__main__":
    main()
