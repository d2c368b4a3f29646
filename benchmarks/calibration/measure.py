"""How much the calibration images matter: accuracy after quantization with noise, D4C and real images.

    python -m benchmarks.calibration.measure --models DIR --data DIR --out FILE.jsonl --part ranges [--device cuda]

Parts: `images` (only makes the calibration sets, so that several processes can share them), `ranges` (image tower,
published placement, no reconstruction), `reconstruction` (the same with the published units, `--steps` steps each) and
`demo` (with `--only demo-vit,demo-rn`: deployable track, both towers, emoji pack).
`--models` holds bench-vit.safetensors and bench-rn.safetensors; `--data` holds tiny-imagenet-val.parquet,
cifar10-test.parquet and a parquet of real images to draw from (`--real`). Calibration sets are kept in the folder
`calibration` beside the output, decoded pictures and float embeddings in `cache`. Every cell is one line of the output
file, written when it is done; a second call resumes, and `--minutes` ends a call early.
`benchmarks.calibration.table` and `benchmarks.calibration.ablation` make the tables.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import torch

import d4c
from benchmarks.common.arguments import (
    add_device,
    add_models_and_data,
    add_real,
    add_seeds,
    argument_parser,
    integers,
    words,
)
from benchmarks.common.problems import Bench, Places, datasets
from benchmarks.common.records import commit, measured, versions
from benchmarks.common.rows import Row, append_row, is_measured, read_rows, top1_line
from benchmarks.common.tables import SCHEMES
from d4c.synthesis.config import PRESETS

BATCH = 200
"""Images evaluated at once; activations of this many stay in a GPU's cache."""


def cells(args: argparse.Namespace) -> list[Row]:
    """The table's cells in the order of their importance: everything of one seed before the next seed."""
    if args.part == "images":
        axes = itertools.product(args.seeds, args.only, args.methods or ("noise", "real", "d4c"))
        return [{"seed": s, "model": m, "method": c} for s, m, c in axes]
    methods = args.methods or (("noise", "leaves", "d4c") if args.part == "demo" else ("noise", "d4c", "real"))
    kinds = {"ranges": ("none",), "reconstruction": ("published",), "demo": ("none", "gptq")}[args.part]
    shared = {"part": args.part, "preset": args.preset, "steps": args.steps, "batch_size": args.batch_size}
    return [
        {**shared, "seed": s, "model": m, "method": c, "scheme": q, "reconstruction": r}
        for s, m, r, c, q in itertools.product(args.seeds, args.only, kinds, methods, args.schemes)
    ]


def measure(bench: Bench, cell: Row, processes: int) -> Row:
    """Quantize and evaluate one cell."""
    demo = cell["part"] == "demo"
    towers = ("image", "text") if demo else ("image",)
    model, seed = cell["model"], cell["seed"]
    clip, calibration = bench.clip(model), bench.calibration(model, cell["method"], seed)
    with measured(bench.places.device) as figures:
        quantized = d4c.quantize(
            clip,
            calibration,
            cell["scheme"],
            track="deployable" if demo else "paper",
            reconstruction=cell["reconstruction"],
            iterations=cell["steps"],
            batch_size=cell["batch_size"],
            towers=towers,
            seed=seed,
        )
    return {
        **cell,
        "quantize_seconds": round(figures["seconds"], 2),
        "processes": processes,
        "synthesis_precision": calibration.provenance.get("precision"),
        "synthesis_seconds": calibration.provenance.get("seconds"),
        "device": torch.cuda.get_device_name() if clip.device.type == "cuda" else "cpu",
        "versions": versions("torch"),
        "commit": commit(),
        "results": {data: bench.problem(model, data).score(quantized, towers) for data in datasets(model)},
    }


def main() -> None:
    parser = argument_parser(__doc__)
    add_models_and_data(parser)
    add_real(parser)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=("images", "ranges", "reconstruction", "demo"), required=True)
    share = "i/n: only every n-th cell from the i-th on, to share the work between processes"
    parser.add_argument("--share", type=lambda text: integers(text.replace("/", ",")), default=[0, 1], help=share)
    add_seeds(parser)
    parser.add_argument("--only", type=words, default=["bench-vit", "bench-rn"], help="models")
    parser.add_argument("--methods", type=words, help="of the synthesis, and real; by part")
    parser.add_argument("--schemes", type=words, default=SCHEMES)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--preset", choices=tuple(PRESETS), default="paper", help="of the synthesis")
    parser.add_argument("--precision", choices=("auto", "float32", "bf16"), default="auto", help="of the synthesis")
    add_device(parser)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no cell after so long")
    args = parser.parse_args()
    deadline = time.monotonic() + 60 * args.minutes
    rows, folder = read_rows(args.out), args.out.parent
    places = Places(args.models, args.data, folder / "cache", None, args.device, BATCH)
    bench = Bench(places, folder / "calibration", args.preset, args.real, args.precision)
    first, processes = args.share
    for cell in cells(args)[first::processes]:
        if is_measured(cell, rows):
            continue
        if time.monotonic() > deadline:
            break
        if args.part == "images":
            bench.calibration(cell["model"], cell["method"], cell["seed"])
            continue
        row = measure(bench, cell, processes)
        append_row(args.out, row)
        print(cell, top1_line(row["results"]), f"{row['quantize_seconds']} s", flush=True)


if __name__ == "__main__":
    main()
