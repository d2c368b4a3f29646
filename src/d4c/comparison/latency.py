"""How long an image takes in the quantized export and in the float model, in one process."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from d4c.deployment.export import export
from d4c.models.clip import CLIP
from d4c.quantization.quantized import QuantizedCLIP
from d4c.runtime.runtime_clip import RuntimeCLIP

BATCHES = (1, 32)
REPEATS = 7
"""Calls that are timed after one that is not; their median counts."""


def latencies(clip: CLIP, model: QuantizedCLIP) -> dict[str, Any]:
    """Export a model and time its image tower in ONNX Runtime, and the float one in PyTorch, on the CPU.

    Args:
        clip: The float model.
        model: The quantized model.

    Returns:
        "runtime" and "float_runtime" with their versions, and the milliseconds of a batch of 1 and of 32 images in
        both. The calls of both alternate, so that what else the machine does slows both down.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        model.save_pretrained(Path(folder) / "artifact")
        export(Path(folder) / "artifact", Path(folder) / "export", check=False)
        exported = RuntimeCLIP(Path(folder) / "export")
        floating = clip.to("cpu")
        data: dict[str, Any] = {
            "runtime": f"onnxruntime {version('onnxruntime')}",
            "float_runtime": f"torch {torch.__version__}",
        }
        for batch in BATCHES:
            pixels = torch.zeros(batch, 3, clip.image_size, clip.image_size)
            quantized, plain = _alternating(
                partial(exported.encode_image, pixels.numpy()), partial(floating.encode_image, pixels)
            )
            data |= {f"batch_{batch}_ms": 1000 * quantized, f"float_batch_{batch}_ms": 1000 * plain}
    return data


@torch.no_grad()
def _alternating(first: Callable[[], Any], second: Callable[[], Any]) -> tuple[float, float]:
    """The median seconds of two calls in turn."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS + 1):
        for call, times in zip((first, second), seconds, strict=True):
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
    return median(seconds[0][1:]), median(seconds[1][1:])
