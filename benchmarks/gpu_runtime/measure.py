"""Throughput of quantized image towers on a GPU beside bf16, in one process.

    python -m benchmarks.gpu_runtime.measure --models ViT-B-32,ViT-L-14 --batch 256 --out FILE.json [--tune]

Random weights in the published shapes: time depends on shapes alone. Every candidate is captured as a CUDA graph, so
that no launch is waited for, and all are timed in turns. "bf16, torch.compile" is the float tower; "int8 products" and
"bf16 products" are the bare matrix products of its blocks by PyTorch's libraries: what the hardware gives at best
without fusing anything. With `--tune` the float tower is there once more, with what the compiler finds when it searches
among its matrix kernels.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import d4c
from benchmarks.common.arguments import add_device, argument_parser, require_names, words
from benchmarks.common.models import MODELS, make_clip
from benchmarks.common.records import command, setup, synchronize
from benchmarks.common.rows import Row, read_report, write_report
from benchmarks.gpu_runtime.table import page
from d4c.compiled import can_compile
from d4c.integer.accelerate import accelerate
from d4c.models.clip import CLIP
from d4c.models.layers import Block
from d4c.models.vit import VisionTransformer

SCHEMES = ("W8A8", "W4A8")
FEW_IMAGES = 4
REFERENCE = "bf16, torch.compile"
REPEATS = 10


def bf16(clip: CLIP, mode: str | None) -> nn.Module:
    """The float tower in bf16, compiled block by block."""
    tower = copy.deepcopy(clip.image).to(torch.bfloat16)
    if clip.device.type == "cuda" and can_compile():
        for block in tower.blocks:
            block.compile(dynamic=False, mode=mode)
    return tower


def products(clip: CLIP, batch: int, integers: bool) -> Callable[[], None]:
    """All products of the blocks on their own: q, k and v as one, the output projection, both layers of the MLP."""
    tower = clip.image
    assert isinstance(tower, VisionTransformer)
    width, rows = tower.positional_embedding.shape[1], batch * len(tower.positional_embedding)
    block = tower.blocks[0]
    assert isinstance(block, Block)
    hidden = block.mlp.fc1.out_features
    pairs = []
    for depth, out in ((width, 3 * width), (width, width), (width, hidden), (hidden, width)):
        a, b = torch.randint(-127, 128, (rows, depth)), torch.randint(-127, 128, (out, depth))
        dtype = torch.int8 if integers else torch.bfloat16
        pairs.append((a.to(clip.device, dtype), b.to(clip.device, dtype)))

    def run() -> None:
        for _ in tower.blocks:
            for a, b in pairs:
                torch._int_mm(a, b.t()) if integers else F.linear(a, b)

    return run


def captured(run: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """A function without arguments as a CUDA graph; on a CPU, itself."""
    if device.type != "cuda":
        return run
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def timed(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, the mean of several in a row."""
    synchronize(device)
    started = time.perf_counter()
    for _ in range(REPEATS):
        run()
    synchronize(device)
    return (time.perf_counter() - started) / REPEATS


def weight_bytes(tower: nn.Module) -> int:
    """What parameters and buffers take on the device."""
    return sum(t.numel() * t.element_size() for t in (*tower.parameters(), *tower.buffers()))


@torch.no_grad()
def measure(name: str, args: argparse.Namespace) -> Row:
    clip = make_clip(name, args.device, 0)
    pixels = torch.randn(args.batch, 3, clip.image_size, clip.image_size, device=clip.device)
    images = d4c.synthesize(clip, "leaves", images=FEW_IMAGES, seed=0)
    runs: dict[str, Callable[[], Any]] = {}
    towers: dict[str, nn.Module] = {REFERENCE: bf16(clip, None)}
    if args.tune:
        towers[f"{REFERENCE} max-autotune"] = bf16(clip, "max-autotune-no-cudagraphs")
    half = pixels.to(torch.bfloat16)
    for key, tower in towers.items():
        runs[key] = partial(tower, half)
    for scheme in SCHEMES:
        quantized = d4c.quantize(clip, images, scheme, towers=("image",), reconstruction="none")
        fast = accelerate(quantized, torch.bfloat16)
        towers[f"d4c {scheme}"] = fast.image
        runs[f"d4c {scheme}"] = partial(fast.encode_image, pixels)
        print(f"{name} {scheme}: built", file=sys.stderr, flush=True)
    runs["bf16 products"] = products(clip, args.batch, integers=False)
    runs["int8 products"] = products(clip, args.batch, integers=True)
    started = time.perf_counter()
    ready = {key: captured(run, clip.device) for key, run in runs.items()}
    compiling = time.perf_counter() - started
    seconds: dict[str, list[float]] = {key: [] for key in ready}
    for i in range(args.rounds):
        for key in list(ready)[:: 1 if i % 2 == 0 else -1]:
            seconds[key].append(timed(ready[key], clip.device))
    reference = seconds[REFERENCE]
    rows = []
    for key, times in seconds.items():
        ratios = [float_seconds / taken for float_seconds, taken in zip(reference, times, strict=True)]
        row: Row = {"candidate": key, "seconds": statistics.median(times)}
        row |= {"lowest": min(times), "highest": max(times), "images_a_second": args.batch / statistics.median(times)}
        row |= {"times_bf16": statistics.median(ratios)}
        row |= {"bytes": weight_bytes(towers[key]) if key in towers else None}
        rows.append(row)
        print(f"  {key}: {row['images_a_second']:,.0f} images/s, {row['times_bf16']:.2f} x bf16", flush=True)
    float_bytes = weight_bytes(clip.image)
    return {"model": name, "batch": args.batch, "float32_bytes": float_bytes, "compiling": compiling, "rows": rows}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--models", type=words, default=["ViT-B-32", "ViT-L-14"])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tune", action="store_true", help="let the compiler search for bf16")
    add_device(parser)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    require_names(parser, "model", args.models, MODELS)
    record = setup(args.device) | {"command": command("gpu_runtime.measure"), "seed": 0}
    run: Row = {"setup": record | {"rounds": args.rounds, "tune": args.tune}, "models": []}
    report = read_report(args.out, {"runs": []})
    report["runs"].append(run)
    for name in args.models:
        print(name, flush=True)
        run["models"].append(measure(name, args))
        write_report(args.out, report, page)


if __name__ == "__main__":
    main()
