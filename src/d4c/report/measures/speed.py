"""How fast an export is beside the float model, in one process."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import torch

from d4c.device import processor_name
from d4c.runtime.runtime_clip import RuntimeCLIP

if TYPE_CHECKING:
    from d4c.models.clip import CLIP

RUNS, SECONDS = 15, 4.0
"""Largest number of timed pairs of calls for a tower, and seconds after which no further pair starts."""
PROMPT = "a photo of a dog."


@dataclass(frozen=True)
class TowerSpeed:
    """Median milliseconds of one sample in both models, and the median of their ratios."""

    tower: str
    float_ms: float
    quantized_ms: float
    times: float


@dataclass(frozen=True)
class Speed:
    """Latency at batch 1: the float model in PyTorch, and the export in ONNX Runtime.

    Attributes:
        export: Folder of the export.
        processor: What computed.
        threads: Threads of PyTorch; ONNX Runtime takes as many as the processor has cores.
        towers: Both towers.
    """

    export: str
    processor: str
    threads: int
    towers: tuple[TowerSpeed, ...]


@torch.no_grad()
def measure_speed(clip: CLIP, export: Path) -> Speed:
    """Time both towers of both models in turn.

    Args:
        clip: The float model, of which a copy is timed on the CPU if it is elsewhere.
        export: Folder that `d4c export` wrote.
    """
    exported = RuntimeCLIP(export)
    if clip.device.type != "cpu":
        clip = copy.deepcopy(clip).cpu()
    pixels = torch.zeros(1, 3, clip.image_size, clip.image_size)
    tokens = clip.tokenize([PROMPT])
    arrays = pixels.numpy(), tokens.numpy()
    towers = (
        _timed("image", lambda: clip.encode_image(pixels), lambda: exported.encode_image(arrays[0])),
        _timed("text", lambda: clip.encode_text(tokens), lambda: exported.encode_text(arrays[1])),
    )
    return Speed(str(export), processor_name(), torch.get_num_threads(), towers)


def _timed(tower: str, first: Callable[[], object], second: Callable[[], object]) -> TowerSpeed:
    """Time two functions in turn, so that both meet the same load of the machine."""
    pairs: list[tuple[float, float]] = []
    first(), second()
    started = time.perf_counter()
    while len(pairs) < RUNS and (not pairs or time.perf_counter() - started < SECONDS):
        pairs.append((_milliseconds(first), _milliseconds(second)))
    floats, rounded = zip(*pairs, strict=True)
    return TowerSpeed(tower, median(floats), median(rounded), median(a / b for a, b in pairs))


def _milliseconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - started)
