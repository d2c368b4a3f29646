"""The towers that are measured, and how candidates are built and tried for them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from benchmarks.common import records
from benchmarks.common.rows import Row
from benchmarks.runtime.candidates import Builder, Built, Tower
from benchmarks.runtime.table import FLOAT, Key

TOWERS = {
    "ViT-B/32 image": ("ViT-B-32", "image", "bench-vit"),
    "RN50 image": ("RN50", "image", "bench-rn"),
    "ViT-B/32 text": ("ViT-B-32", "text", "bench-vit"),
    "SigLIP-B/16 image": ("SigLIP-B-16", "image", "small-siglip"),
    "SigLIP-B/16 text": ("SigLIP-B-16", "text", "small-siglip"),
}
"""Name of a tower in full size: the published shape, the kind, and the trained model that stands for it in fidelity."""
PACKAGES = ("onnxruntime", "openvino", "nncf", "torchao", "numpy")


def build(tower: Tower, builders: Mapping[Key, Builder]) -> dict[Key, Built | str]:
    """Every candidate that can be built, the reason for the others."""
    out: dict[Key, Built | str] = {}
    for key, builder in builders.items():
        started = time.perf_counter()
        out[key] = attempt(partial(builder, tower), key)
        print(f"  {', '.join(key)}: built in {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
    return out


def attempt(action: Callable[[], Any], key: Key) -> Any:
    """The action's result, or of a peer that fails the first line of its error; ours and float32 must not fail."""
    try:
        return action()
    except Exception as error:
        if key[1] == FLOAT or key[1].startswith("d4c"):
            raise
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def setup() -> Row:
    """What figures depend on."""
    record = records.setup("cpu", *PACKAGES) | {"instructions": records.instructions(), "seed": 0}
    return record | {"command": records.command("runtime.measure")}
