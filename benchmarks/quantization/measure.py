"""Both towers quantized: accuracy by calibration images, scheme and reconstruction; seconds at full size.

    python -m benchmarks.quantization.measure --part accuracy --models DIR --data DIR --real FILE --out FILE.jsonl
    python -m benchmarks.quantization.measure --part time --out FILE.jsonl

Accuracy: deployable track, all rows of both test sets (demo models: the emoji pack). What every cell needs (decoded
pictures, calibration images, the float model's embeddings) is made first, once, in the folder `cache` beside the
output. Then `--processes` workers take cells from one list, spread over the GPUs there are; each cell is one line of
the output, written when it is done, so that a second call resumes, and `--minutes` ends one.
Time: seconds and peak memory of quantizing ViT-B/32 in full size with random weights, after a warm-up call.
`benchmarks.quantization.table` makes the tables.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import time
from pathlib import Path

import d4c
from benchmarks.common.arguments import (
    add_device,
    add_models_and_data,
    add_real,
    add_seeds,
    argument_parser,
    words,
)
from benchmarks.common.models import MODELS, make_clip
from benchmarks.common.problems import Bench, Places, datasets
from benchmarks.common.records import command, measured, setup
from benchmarks.common.rows import Row, append_row, is_measured, read_rows, top1_line
from benchmarks.common.tables import SCHEMES
from benchmarks.common.workers import measure_in_workers, set_up_torch
from d4c.calibration.images import CalibrationSet
from d4c.models.clip import CLIP
from d4c.quantization.quantized import QuantizedCLIP
from d4c.synthesis.config import PRESETS

METHODS = ("noise", "d4c", "real")
RECONSTRUCTIONS = ("none", "gptq", "block")
WARM_UP_STEPS = 10


def open_bench(args: argparse.Namespace, device: str) -> Bench:
    places = Places(args.models, args.data, args.cache, args.rows, device, args.batch)
    return Bench(places, args.cache / "calibration", args.preset, args.real)


def cells(args: argparse.Namespace) -> list[Row]:
    """The table's cells in the order of their importance: everything of one seed before the next seed."""
    shared = {"part": "accuracy", "preset": args.preset, "rows": args.rows}
    axes = itertools.product(args.seeds, args.reconstructions, args.only, args.methods, args.schemes)
    keys = ("seed", "reconstruction", "model", "method", "scheme")
    crossed = [shared | dict(zip(keys, values, strict=True)) for values in axes]
    return [cell | {"steps": steps(cell, args)} for cell in crossed]


def steps(cell: Row, args: argparse.Namespace) -> int | None:
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


def accuracy(args: argparse.Namespace) -> None:
    """Make what cells share, then measure them in `--processes` workers."""
    todo = missing(cells(args), args.out)
    bench = open_bench(args, args.device)
    for cell in todo:
        bench.calibration(cell["model"], cell["method"], cell["seed"])
    for model in dict.fromkeys(cell["model"] for cell in todo):
        for data in datasets(model):
            bench.problem(model, data)
    del bench
    measure_in_workers(args, todo, open_bench, measure)


def measure(args: argparse.Namespace, bench: Bench, cell: Row) -> Row:
    """Quantize and evaluate one cell."""
    clip = bench.clip(cell["model"])
    calibration = bench.calibration(cell["model"], cell["method"], cell["seed"])
    device = bench.places.device
    with measured(device) as figures:
        quantized = quantize(clip, calibration, cell)
    made = {key: calibration.provenance.get(key) for key in ("images", "iterations", "precision", "seconds", "source")}
    results = {data: bench.problem(cell["model"], data).score(quantized) for data in datasets(cell["model"])}
    return {
        **cell,
        "quantize": figures,
        "calibration": made,
        "recipe": learning(quantized),
        "bits": quantized.effective_bits(),
        "processes": args.processes,
        "setup": setup(device) | {"command": command("quantization.measure")},
        "results": results,
        "summary": top1_line(results),
    }


def seconds(args: argparse.Namespace) -> None:
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


PARTS = {"accuracy": (accuracy, ["bench-vit", "bench-rn"]), "time": (seconds, ["ViT-B-32"])}
"""What to run, and its models by default."""


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--part", choices=tuple(PARTS), required=True)
    add_models_and_data(parser)
    add_real(parser)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", type=words, help=f"models; for the time {', '.join(MODELS)}")
    parser.add_argument("--methods", type=words, default=METHODS, help="of the synthesis, and real")
    parser.add_argument("--schemes", type=words, default=SCHEMES)
    parser.add_argument("--reconstructions", type=words, default=RECONSTRUCTIONS)
    add_seeds(parser)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="default", help="of the synthesis")
    parser.add_argument("--steps", type=int, help="of reconstruction block, for each unit; d4c's own by default")
    parser.add_argument("--rows", type=int, help="of each dataset, evenly spread; all by default")
    parser.add_argument("--batch", type=int, default=200, help="images evaluated at once")
    parser.add_argument("--images", type=int, default=128, help="to calibrate with in the part time")
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement in the part time")
    parser.add_argument("--processes", type=int, default=1)
    add_device(parser)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no cell after so long")
    args = parser.parse_args()
    run, models = PARTS[args.part]
    args.only = args.only or models
    args.deadline = time.monotonic() + 60 * args.minutes
    args.cache = args.out.parent / "cache"
    args.cache.mkdir(parents=True, exist_ok=True)
    set_up_torch()
    # An end from outside, such as a time limit, ends the workers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    run(args)


if __name__ == "__main__":
    main()
