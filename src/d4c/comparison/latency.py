"""How long both towers take in the quantized export and in the float one, in one runtime and one process."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d4c.deployment.export import export
from d4c.device import processor_name
from d4c.models.clip import CLIP
from d4c.quantization.quantized import QuantizedCLIP
from d4c.runtime.runtime_clip import RuntimeCLIP
from d4c.runtime.sessions import onnxruntime_graph
from d4c.version import __version__

BATCHES = (1, 32)
REPEATS = 7
"""Calls that are timed after one that is not; their median counts."""
PROMPT = "a photo of a dog."


def latencies(clip: CLIP, model: QuantizedCLIP) -> dict[str, Any]:
    """Export a model, and the float model it was made from, and time the towers of both in ONNX Runtime on the CPU.

    Both get the same pixels, and the same prompts without the positions after their end where those do not count.

    Args:
        clip: The float model.
        model: The quantized model.

    Returns:
        "runtime" with its version, "processor" with its number of cores, and for each tower the milliseconds of a batch
        of 1 and of 32 in both, such as "image_batch_1_ms" and "float_image_batch_1_ms". The calls of both alternate, so
        that what else the machine does slows both down.
    """
    # Imported here: onnx is an extra, and a leaderboard needs the names of times without it.
    from d4c.deployment.onnx.graph import OPSET
    from d4c.deployment.onnx.tower_graphs import image_graph, text_graph

    data: dict[str, Any] = {
        "runtime": f"onnxruntime {version('onnxruntime')}",
        "processor": f"{processor_name()}, {os.cpu_count()} cores",
    }
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        model.save_pretrained(Path(folder) / "artifact")
        export(Path(folder) / "artifact", Path(folder) / "export", check=False)
        exported = RuntimeCLIP(Path(folder) / "export")
        for tower in clip.towers:
            file = Path(folder) / f"float-{tower}.onnx"
            graph = image_graph(clip) if tower == "image" else text_graph(clip)
            file.write_bytes(graph.model(__version__).SerializeToString())
            floating = onnxruntime_graph(file, OPSET, wide_sums=False)
            quantized: Callable[..., Any] = exported.encode_image if tower == "image" else exported.encode_text
            one = _input(clip, tower)
            for batch in BATCHES:
                inputs = np.repeat(one, batch, axis=0)
                ours, plain = _alternating(partial(quantized, inputs), partial(floating, inputs))
                name = f"{tower}_batch_{batch}_ms"
                data |= {name: 1000 * ours, f"float_{name}": 1000 * plain}
    return data


def _input(clip: CLIP, tower: str) -> NDArray[Any]:
    """A picture or a prompt as a tower reads it."""
    if tower == "image":
        return np.zeros((1, 3, clip.image_size, clip.image_size), np.float32)
    return clip.text.crop(clip.tokenize([PROMPT])).numpy()


def _alternating(first: Callable[[], Any], second: Callable[[], Any]) -> tuple[float, float]:
    """The median seconds of two calls in turn."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS + 1):
        for call, times in zip((first, second), seconds, strict=True):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
    return median(seconds[0][1:]), median(seconds[1][1:])
