"""Seconds and peak memory of quantizing ViT-B/32 in full size with random weights, after a warm-up call.

    python -m benchmarks.quantization.measure --out FILE.jsonl

Each cell is one line of the output, written when it is done, so that a second call resumes. Accuracy is a comparison
(`grids/accuracy.toml`). `benchmarks.quantization.table` makes the tables.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import d4c
from benchmarks.common.arguments import add_device, argument_parser, words
from benchmarks.common.models import MODELS, make_clip
from benchmarks.common.records import command, measured, setup
from benchmarks.common.rows import Row, append_row, is_measured, read_rows
from benchmarks.common.workers import set_up_torch
from d4c.calibration.images import CalibrationSet
from d4c.models.clip import CLIP
from d4c.quantization.quantized import QuantizedCLIP

RECONSTRUCTIONS = ("none", "gptq", "block")
WARM_UP_STEPS = 10


def steps(cell: Row, args: Namespace) -> int | None:
    """Steps of learning for each unit, where the reconstruction has any; None means d4c's own number."""
    return args.steps if learns(cell) else None


def learns(cell: Row) -> bool:
    return cell["reconstruction"] == "block"


def missing(cells: list[Row], out: Path) -> list[Row]:
    rows = read_rows(out)
    return [cell for cell in cells if not is_measured(cell, rows)]


def quantize(clip: CLIP, calibration: CalibrationSet, cell: Row) -> QuantizedCLIP:
    settings = {"reconstruction": cell["reconstruction"], "iterations": cell["steps"], "seed": cell["seed"]}
    return d4c.quantize(clip, calibration, cell["scheme"], **settings)


def learning(quantized: QuantizedCLIP) -> Row:
    """What the recipe says about the reconstruction."""
    settings = {name: quantized.recipe[name] for name in ("iterations", "batch_size")}
    return {"kind": quantized.recipe["reconstruction"], **settings}


def seconds(args: Namespace) -> None:
    """Time of `quantize` for models in full size; the first call chooses kernels, and captures graphs."""
    shared = {"part": "time", "seed": 0, "scheme": "W4A8", "images": args.images}
    full_size = [shared | {"model": m, "reconstruction": r} for m in args.only for r in args.reconstructions]
    for cell in missing([cell | {"steps": steps(cell, args)} for cell in full_size], args.out):
        clip = make_clip(cell["model"], args.device, 0)
        calibration = d4c.synthesize(clip, "leaves", images=args.images, seed=0)
        with measured(args.device) as first:
            quantize(clip, calibration, cell | {"steps": WARM_UP_STEPS if learns(cell) else None})
        repeats = []
        for _ in range(args.repeats):
            with measured(args.device) as took:
                quantized = quantize(clip, calibration, cell)
            repeats.append(took)
        settings = {"prompts": quantized.recipe["prompts"], "recipe": learning(quantized)}
        figures = {"first": first, "repeats": repeats, **settings}
        append_row(
            args.out, cell | figures | {"setup": setup(args.device) | {"command": command("quantization.measure")}}
        )
        print(cell, first, repeats, flush=True)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", type=words, default=["ViT-B-32"], help=f"models of {', '.join(MODELS)}")
    parser.add_argument("--reconstructions", type=words, default=RECONSTRUCTIONS)
    parser.add_argument("--steps", type=int, help="of reconstruction block, for each unit; d4c's own by default")
    parser.add_argument("--images", type=int, default=128, help="to calibrate with")
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement")
    add_device(parser)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    set_up_torch()
    seconds(args)


if __name__ == "__main__":
    main()
