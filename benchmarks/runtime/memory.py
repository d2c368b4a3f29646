"""Memory of a process that opens one graph and embeds one picture or prompt, for float32 and each form of d4c."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.common.rows import Row
from benchmarks.runtime.building import setup
from benchmarks.runtime.candidates import AS_CONVOLUTIONS, OPENVINO, ORT, d4c_graph, float_graph
from benchmarks.runtime.speed import full_size, quick_ranges, speed_inputs
from benchmarks.runtime.table import FLOAT, Key

PROCESSES = 3
"""Of each row, which is their median: what a runtime frees, and when, is not the same in every process."""
MODULES = {ORT: "onnxruntime", OPENVINO: "openvino"}


def measure_memory(name: str, threads: int, folder: Path, chosen: Sequence[Key]) -> Row:
    """One cell of the results."""
    tower = full_size(name, folder, threads)
    rows: list[Row] = []
    for runtime, candidate in chosen:
        if runtime not in MODULES or not candidate.startswith((FLOAT, "d4c")):
            continue
        with quick_ranges():
            graph = float_graph(tower) if candidate == FLOAT else d4c_graph(candidate.split()[1], "none", tower)
        inputs = folder / "inputs.npy"
        np.save(inputs, speed_inputs(tower, 1)[candidate != FLOAT])
        form = "convolutions" if candidate.endswith(AS_CONVOLUTIONS) else "linear"
        command = [sys.executable, "-m", "benchmarks.runtime.memory_worker", MODULES[runtime]]
        command += [str(graph), str(inputs), str(threads), form]
        tries = [json.loads(subprocess.check_output(command, text=True)) for _ in range(PROCESSES)]
        memory = {what: statistics.median(values[what] for values in tries) for what in tries[0]}
        print(f"  {runtime}, {candidate}: {memory}", file=sys.stderr, flush=True)
        rows.append({"runtime": runtime, "candidate": candidate, "memory": memory})
    return {f"{name}, memory": {"setup": setup(), "rows": rows, "failed": []}}
