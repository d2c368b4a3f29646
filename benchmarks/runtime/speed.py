"""Seconds of towers in full size with random weights: all candidates in one process, in turns."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

import d4c
from benchmarks.common.models import make_clip
from benchmarks.common.rows import Row
from benchmarks.runtime.building import TOWERS, attempt, build, setup
from benchmarks.runtime.candidates import CANDIDATES, ORT, Array, Builder, Built, Tower
from benchmarks.runtime.table import FLOAT, Key
from d4c.calibration.prompts import generic_prompts
from d4c.quantization.layers.quantized_weight import QuantizedLayer
from d4c.quantization.ranges import fitting
from d4c.quantization.ranges.search import safe_scale

USUAL_THREADS = 2
"""Of the cells whose names say nothing of threads."""
PROMPT_TOKENS = 10
# Where only time counts, any ranges will do.
FEW_IMAGES, FEW_PROMPTS = 4, 16
CROPPED = "float32, 10 positions"


def interleaved(runs: Mapping[Key, Callable[[], Any]], rounds: int) -> dict[Key, list[float]]:
    """Seconds of each candidate in each round."""
    seconds: dict[Key, list[float]] = {key: [] for key in runs}
    for i in range(rounds):
        for key in list(runs)[:: 1 if i % 2 == 0 else -1]:
            once = timed(runs[key])
            # The run before has filled caches with other weights; in a long run that makes no difference.
            seconds[key].append(timed(runs[key]) if once < 0.5 else once)
    return seconds


def timed(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


class OtherLoad:
    """Share of the processors that other processes take between making this and reading `share`."""

    def __init__(self) -> None:
        self.started = self._ticks()

    def share(self) -> float:
        busy, elapsed, ours = (now - then for then, now in zip(self.started, self._ticks(), strict=True))
        return max(0.0, busy - ours) / elapsed

    @staticmethod
    def _ticks() -> tuple[float, float, float]:
        ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        idle, second = ticks[3] + ticks[4], os.sysconf("SC_CLK_TCK")
        spent = os.times()
        return (sum(ticks) - idle) / second, sum(ticks) / second, spent.user + spent.system


def speed_inputs(tower: Tower, batch: int) -> tuple[Array, Array]:
    """What float32 gets and what the others get."""
    if tower.kind == "image":
        size = tower.clip.image_size
        pixels = np.random.default_rng(0).standard_normal((batch, 3, size, size), np.float32)
        return pixels, pixels
    prompt = tower.clip.tokenize(" ".join(["photo"] * (PROMPT_TOKENS - 2))).numpy().repeat(batch, 0)
    if tower.clip.text.every_position_counts:
        return prompt, prompt
    assert prompt[0].argmax() == PROMPT_TOKENS - 1
    return prompt, np.ascontiguousarray(prompt[:, :PROMPT_TOKENS])


def measure_speed(
    name: str, batches: Sequence[int], rounds: Sequence[int], threads: int, folder: Path, chosen: Mapping[Key, Builder]
) -> Row:
    """One cell of the results for each batch size."""
    tower = full_size(name, folder, threads)
    builders = dict(chosen)
    if tower.kind == "text" and not tower.clip.text.every_position_counts:
        builders[ORT, CROPPED] = CANDIDATES[ORT, FLOAT]
    with quick_ranges():
        built = build(tower, builders)
    cells = zip(batches, rounds, strict=True)
    on = "" if threads == USUAL_THREADS else f" on {threads} thread{'s' * (threads > 1)}"
    return {f"{name}, batch {batch}{on}": measure_batch(tower, built, batch, count) for batch, count in cells}


def full_size(name: str, folder: Path, threads: int) -> Tower:
    """A tower with random weights, calibrated on little."""
    config, kind, _ = TOWERS[name]
    clip = make_clip(config, "cpu", 0)
    images = d4c.synthesize(clip, "leaves", images=FEW_IMAGES, seed=0)
    return Tower(clip, kind, images, generic_prompts(FEW_PROMPTS), folder, threads, ranges="minmax")


@contextmanager
def quick_ranges() -> Iterator[None]:
    """Choose no ranges with care, which takes minutes a tower, while graphs are made."""
    with patch.object(QuantizedLayer, "weight_range", widest), patch.object(fitting, "CANDIDATES", 1):
        yield


def widest(layer: QuantizedLayer, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Scale [R] and zero point [R] of rows [R, n] that cover all values."""
    scale = safe_scale(rows.abs().amax(1) / layer.weight_args.qmax)
    return scale, torch.zeros_like(scale)


def measure_batch(tower: Tower, built: Mapping[Key, Built | str], batch: int, rounds: int) -> Row:
    whole, short = speed_inputs(tower, batch)
    runs: dict[Key, Callable[[], Any]] = {}
    reasons: dict[Key, str] = {}
    sizes: dict[Key, int] = {}
    for key, candidate in built.items():
        if isinstance(candidate, str):
            reasons[key] = candidate
            continue
        values = whole if key[1] == FLOAT else short
        run = partial(candidate.run, values)
        output = attempt(run, key)  # compilers work in the first run
        if isinstance(output, str):
            reasons[key] = output
        else:
            runs[key], sizes[key] = run, candidate.bytes
    load = OtherLoad()
    seconds = interleaved(runs, rounds)
    share = load.share()
    rows: list[Row] = []
    for (runtime, name), times in seconds.items():
        to_float, to_common = (ratio(times, seconds[key]) for key in ((runtime, FLOAT), (ORT, FLOAT)))
        row = {"runtime": runtime, "candidate": name, "bytes": sizes[runtime, name]}
        row |= {"seconds": statistics.median(times), "to_own_float": to_float, "to_onnxruntime_float": to_common}
        rows.append(row)
        print(f"  {runtime}, {name}: {to_float['median']:.3f}", file=sys.stderr, flush=True)
    failed = [{"runtime": key[0], "candidate": key[1], "reason": reason} for key, reason in reasons.items()]
    return {"setup": setup() | {"rounds": rounds, "other_load": share}, "rows": rows, "failed": failed}


def ratio(times: list[float], reference: list[float]) -> dict[str, float]:
    rounds = [one / other for one, other in zip(times, reference, strict=True)]
    return {"median": statistics.median(rounds), "lowest": min(rounds), "highest": max(rounds)}
