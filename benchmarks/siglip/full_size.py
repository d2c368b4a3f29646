"""Seconds and memory of every stage for SigLIPs of published sizes on one GPU.

    python -m benchmarks.siglip.full_size --only SigLIP-B-16,SigLIP-L-16 --out FILE.jsonl

Random weights: times depend on shapes alone. Synthesis is that of the preset "default"; a long and a short run give the
seconds of an iteration, from which those of 500 are extrapolated, since set-up drops out of the difference. So it is
with learned blocks, whose two runs have few steps for each block. GPTQ, packing (the artifact) and export are run as
they are. Each stage is a line of the output, written when it is done; `--minutes` begins no stage after so long.
"""

from __future__ import annotations

import argparse
import gc
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

import d4c
from benchmarks.common.arguments import add_device, argument_parser, words
from benchmarks.common.models import make_clip
from benchmarks.common.records import command, measured, setup
from benchmarks.common.rows import Row, append_row
from benchmarks.common.workers import set_up_torch
from d4c.calibration.images import CalibrationSet
from d4c.synthesis.config import SynthesisConfig

MODELS = ("SigLIP-B-16", "SigLIP-L-16", "SigLIP-SO400M-14")
SYNTHESIS, BLOCKS = (8, 24), (20, 60)
"""Iterations of the short and the long run."""
PLANNED = 500
"""Iterations of the preset "default", of the synthesis and for each block."""
SCHEME = "W4A8"


def fitting(run: Callable[[int], CalibrationSet], images: int) -> tuple[CalibrationSet, int]:
    """Images made by the largest number at once that fits into memory, and that number."""
    batch = images
    while True:
        try:
            return run(batch), batch
        except torch.OutOfMemoryError:
            if batch <= SynthesisConfig().group_size:
                raise
            batch //= 2
            gc.collect()
            torch.cuda.empty_cache()


def per_iteration(seconds: tuple[float, float], iterations: tuple[int, int]) -> Row:
    """Seconds of an iteration, and those of `PLANNED`, extrapolated."""
    each = (seconds[1] - seconds[0]) / (iterations[1] - iterations[0])
    return {"s_iteration": each, "extrapolated_seconds": seconds[1] + (PLANNED - iterations[1]) * each}


def stages(args: argparse.Namespace, name: str, folder: Path) -> Iterator[Row]:
    """Rows of one model, each of a stage."""
    device = args.device
    clip = make_clip(name, device, 0)
    parameters = {tower: sum(p.numel() for p in clip.tower(tower).parameters()) for tower in ("image", "text")}
    common = {"model": name, "parameters": parameters, "scheme": SCHEME}

    def row(stage: str, figures: Row, **more: Any) -> Row:
        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        return common | {"stage": stage, **figures, "host_gib_so_far": host, **more}

    def synthesis(iterations: int, batch: int) -> CalibrationSet:
        return d4c.synthesize(
            clip, "d4c", "default", images=args.images, iterations=iterations, batch=batch, prompt_form="sigmoid"
        )

    # The first run finds how many fit, and compiles.
    images, batch = fitting(partial(synthesis, SYNTHESIS[0]), args.images)
    seconds = []
    for iterations in SYNTHESIS:
        with measured(device) as figures:
            images = synthesis(iterations, batch)
        seconds.append(figures["seconds"])
    each = per_iteration((seconds[0], seconds[1]), SYNTHESIS)
    yield row("synthesis", figures, iterations=SYNTHESIS[1], batch=batch, images=args.images, **each)

    with measured(device) as figures:
        quantized = d4c.quantize(clip, images, SCHEME, reconstruction="gptq")
    yield row("quantization, GPTQ", figures)

    artifact, exported = folder / f"{name}-artifact", folder / f"{name}-export"
    with measured(device) as figures:
        quantized.save_pretrained(artifact)
    yield row("packing", figures, bytes=size(artifact))
    del quantized
    with measured(device) as figures:
        d4c.export(artifact, exported)
    yield row("export", figures, bytes=size(exported))

    seconds = []
    for iterations in BLOCKS:
        with measured(device) as figures:
            d4c.quantize(clip, images, SCHEME, reconstruction="block", iterations=iterations)
        seconds.append(figures["seconds"])
    each = per_iteration((seconds[0], seconds[1]), BLOCKS)
    yield row("quantization, blocks", figures, iterations=BLOCKS[1], **each)


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--only", type=words, default=MODELS, help="models")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--out", type=Path, required=True)
    add_device(parser)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no stage after so long")
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.minutes
    set_up_torch()
    about = setup(args.device) | {"command": command("siglip.full_size")}
    for name in args.only:
        with tempfile.TemporaryDirectory() as folder:
            for row in stages(args, name, Path(folder)):
                append_row(args.out, row | {"setup": about})
                print(row["model"], row["stage"], f"{row['seconds']:.1f} s", flush=True)
                if time.monotonic() > deadline:
                    return


if __name__ == "__main__":
    main()
