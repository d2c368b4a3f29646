"""How long images of D4C and a quantization with them take, by the number of images and of iterations.

    python -m benchmarks.experiments.seconds --models MODELS --device cuda --out seconds.jsonl

Use a device that does nothing else. The settings are those of the curves' grids. A second call resumes.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

import d4c
from benchmarks.common.arguments import add_device, argument_parser
from benchmarks.common.records import setup, synchronize
from benchmarks.common.rows import append_row, is_measured, read_rows
from d4c.calibration.images import CalibrationSet
from d4c.models.clip import CLIP

MODEL, SCHEME = "bench-vit", "W4A4"
IMAGES, ITERATIONS = 128, 500
"""What the preset asks for."""
WARMING = 10
"""Iterations of a synthesis that is not timed, for each number of images: kernels are compiled for it."""
SETTINGS = (
    *((IMAGES, iterations) for iterations in (ITERATIONS, 50, 100, 200, 1000, 3000)),
    *((images, ITERATIONS) for images in (8, 16, 32, 64, 256)),
)


def synthesized(clip: CLIP, images: int, iterations: int) -> tuple[CalibrationSet, float]:
    """A calibration set and the seconds it took."""
    started = time.perf_counter()
    made = d4c.synthesize(clip, "d4c", "default", images=images, iterations=iterations, progress=None)
    synchronize(clip.device)
    return made, time.perf_counter() - started


def quantized(clip: CLIP, images: CalibrationSet) -> float:
    """Seconds of a quantization."""
    started = time.perf_counter()
    d4c.quantize(clip, images, SCHEME, reconstruction="gptq", progress=None)
    synchronize(clip.device)
    return time.perf_counter() - started


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help=f"folder of {MODEL}.safetensors")
    parser.add_argument("--out", type=Path, required=True, help="file of rows")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin nothing after so long")
    add_device(parser)
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.minutes
    clip = d4c.load(args.models / f"{MODEL}.safetensors", device=args.device)
    conditions = setup(args.device)
    quantized(clip, synthesized(clip, IMAGES, WARMING)[0])
    warm = {IMAGES}
    for repeat in range(args.repeats):
        for images, iterations in SETTINGS:
            row = {"model": MODEL, "images": images, "iterations": iterations, "repeat": repeat}
            if is_measured(row, read_rows(args.out)) or time.monotonic() > deadline:
                continue
            if images not in warm:
                synthesized(clip, images, WARMING)
                warm.add(images)
            made, synthesis = synthesized(clip, images, iterations)
            row |= {"synthesis": synthesis, "quantization": quantized(clip, made), "setup": conditions}
            append_row(args.out, row)
            print(images, iterations, f"{synthesis:.1f} s, quantized in {row['quantization']:.1f} s", flush=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
