"""Seconds and memory of every stage for SigLIPs of published sizes on one GPU.

    python -m benchmarks.siglip.full_size --only SigLIP-B-16,SigLIP-L-16 --out FILE.jsonl

Random weights: times depend on shapes alone, so that noise stands for the images that models are quantized with.
Synthesis is that of the preset "default"; a long and a short run give the seconds of an iteration, from which those of
500 are extrapolated, since set-up drops out of the difference. So it is with learned blocks, whose two runs have few
steps for each block. GPTQ, packing (the artifact) and export are run as they are, compilation included.

Each stage is a line of the output, written when it is done, learned blocks after all others. A second call measures
what is missing; `--minutes` begins no part after so long.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import d4c
from benchmarks.common.arguments import add_device, argument_parser, words
from benchmarks.common.models import make_clip
from benchmarks.common.records import command, measured, setup
from benchmarks.common.rows import Row, append_row, is_measured, read_rows
from benchmarks.common.workers import set_up_torch
from d4c.calibration.images import CalibrationSet
from d4c.models.clip import CLIP

MODELS = ("SigLIP-B-16", "SigLIP-L-16", "SigLIP-SO400M-14")
SYNTHESIS, BLOCKS = (8, 24), (20, 60)
"""Iterations of the short and the long run."""
PLANNED = 500
"""Iterations of the preset "default", of the synthesis and for each block."""
SCHEME = "W4A8"


def per_iteration(seconds: tuple[float, float], iterations: tuple[int, int]) -> Row:
    """Seconds of an iteration, and those of `PLANNED`, extrapolated."""
    each = (seconds[1] - seconds[0]) / (iterations[1] - iterations[0])
    return {"s_iteration": each, "extrapolated_seconds": seconds[1] + (PLANNED - iterations[1]) * each}


def synthesis(clip: CLIP, args: argparse.Namespace) -> Iterator[Row]:
    """Time of the images; a GPU that has too little memory for all at once gets half as many."""

    def run(iterations: int, batch: int | None) -> int:
        images = d4c.synthesize(
            clip, "d4c", "default", images=args.images, iterations=iterations, batch=batch, prompt_form="sigmoid"
        )
        return int(images.provenance["batch"])

    # The first run finds how many fit, and compiles.
    batch = run(SYNTHESIS[0], None)
    seconds = []
    for iterations in SYNTHESIS:
        with measured(args.device) as figures:
            batch = run(iterations, batch)
        seconds.append(figures["seconds"])
    each = per_iteration((seconds[0], seconds[1]), SYNTHESIS)
    yield {"stage": "synthesis", **figures, "iterations": SYNTHESIS[1], "batch": batch, "images": args.images, **each}


def artifact(clip: CLIP, args: argparse.Namespace) -> Iterator[Row]:
    """Time of GPTQ, and of writing the artifact and the export."""
    images = noise(clip, args)
    with measured(args.device) as figures:
        quantized = d4c.quantize(clip, images, SCHEME, reconstruction="gptq")
    yield {"stage": "quantization, GPTQ", **figures}
    with tempfile.TemporaryDirectory() as folder:
        packed, exported = Path(folder, "artifact"), Path(folder, "export")
        with measured(args.device) as figures:
            quantized.save_pretrained(packed)
        yield {"stage": "packing", **figures, "bytes": size(packed)}
        with measured(args.device) as figures:
            d4c.export(packed, exported)
        yield {"stage": "export", **figures, "bytes": size(exported)}


def blocks(clip: CLIP, args: argparse.Namespace) -> Iterator[Row]:
    """Time of learned blocks."""
    images, seconds = noise(clip, args), []
    for iterations in BLOCKS:
        with measured(args.device) as figures:
            d4c.quantize(clip, images, SCHEME, reconstruction="block", iterations=iterations)
        seconds.append(figures["seconds"])
    each = per_iteration((seconds[0], seconds[1]), BLOCKS)
    yield {"stage": "quantization, blocks", **figures, "iterations": BLOCKS[1], **each}


Part = Callable[[CLIP, argparse.Namespace], Iterator[Row]]
PARTS: tuple[dict[str, Part], ...] = (
    {"synthesis": synthesis, "export": artifact},
    {"quantization, blocks": blocks},
)
"""What is measured together, by its last stage; learned blocks wait for what all models give sooner."""


def noise(clip: CLIP, args: argparse.Namespace) -> CalibrationSet:
    return d4c.synthesize(clip, "noise", images=args.images)


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def measure(name: str, parts: dict[str, Part], args: argparse.Namespace, about: Row) -> None:
    """Measure parts of one model, where they are missing and there is time."""
    missing = {
        last: part
        for last, part in parts.items()
        if not is_measured({"model": name, "stage": last}, read_rows(args.out))
    }
    if not missing or time.monotonic() > args.deadline:
        return
    clip = make_clip(name, args.device, 0)
    parameters = {tower: sum(p.numel() for p in clip.tower(tower).parameters()) for tower in clip.towers}
    for part in missing.values():
        for figures in part(clip, args) if time.monotonic() <= args.deadline else ():
            host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            row = {"model": name, "parameters": parameters, **figures, "host_gib_so_far": host, **about}
            append_row(args.out, row)
            print(name, row["stage"], f"{row['seconds']:.1f} s", flush=True)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--only", type=words, default=MODELS, help="models")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--out", type=Path, required=True)
    add_device(parser)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no part after so long")
    args = parser.parse_args()
    args.deadline = time.monotonic() + 60 * args.minutes
    set_up_torch()
    about = {"scheme": SCHEME, "setup": setup(args.device) | {"command": command("siglip.full_size")}}
    for parts, name in itertools.product(PARTS, args.only):
        measure(name, parts, args, about)


if __name__ == "__main__":
    main()
