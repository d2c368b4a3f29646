"""Finds out whether a runtime cuts off sums of two products on this processor (see `formats.pair_sums`).

A small product tells: x86 processors without VNNI get it wrong, all others right. Names of processors and their flags
would tell less, since not every system shows them and runtimes choose among what there is.
"""

from __future__ import annotations

import os
import tempfile
from base64 import b64decode
from functools import cache
from pathlib import Path

import numpy as np

from d4c.errors import SettingError
from d4c.runtime.sessions import onnxruntime_graph, openvino_graph

VARIABLE = "D4C_PAIR_SUMS"
"""Environment variable: 1 takes every processor for one that adds in pairs, 0 for one that does not."""
COLUMNS, OPSET = 4, 21
EXACT = COLUMNS * 255 * 127
"""Each output of `PRODUCT` for inputs of 255; sums of pairs that are cut off give 65,534 instead of 129,540."""
PRODUCT = (
    "CAo66wEKHAoBeAoBcwoBehIBcSIOUXVhbnRpemVMaW5lYXIKHgoBcQoBcwoBehIBYSIQRGVxdWFudGl6ZUxpbmVhcgobCgFjCgFzEgF3IhBEZXF1"
    "YW50aXplTGluZWFyChEKAWEKAXcSAXkiBk1hdE11bBIFcGFpcnMqCxABQgFzSgQAAIA/KggQAkIBekoBACorCAQICBADQgFjSiB/f39/f39/f39/"
    "f39/f39/f39/f39/f39/f39/f39/f1oXCgF4EhIKEAgBEgwKAggBCgIIAQoCCARiFwoBeRISChAIARIMCgIIAQoCCAEKAggIQgQKABAV"
)
"""An ONNX file: x [1, 1, 4] as 8-bit codes times a matrix [4, 8] of 127; a test builds it again."""


def saturates(runtime: str) -> bool:
    """Whether "onnxruntime" or "openvino" cuts off sums of two products that do not fit 16 bits.

    Raises:
        SettingError: The runtime is not installed, or `VARIABLE` is neither 0 nor 1.
    """
    forced = os.environ.get(VARIABLE, "")
    if forced not in ("", "0", "1"):
        raise SettingError(
            f"The environment variable {VARIABLE} is {forced!r}, expected 1 for a processor that adds 8-bit products "
            "in pairs or 0 for one that does not; unset it to find out."
        )
    return forced == "1" if forced else _computes_wrongly(runtime)


@cache
def _computes_wrongly(runtime: str) -> bool:
    # Windows does not delete a file that a runtime still maps.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "product.onnx"
        file.write_bytes(b64decode(PRODUCT))
        if runtime == "openvino":
            graph = openvino_graph(file, OPSET)
        else:
            graph = onnxruntime_graph(file, OPSET, wide_sums=False)
        return bool((graph(np.full((1, 1, COLUMNS), 255, np.float32)) != EXACT).any())
