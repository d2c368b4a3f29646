"""Accuracy of one function in several forms: what quantization loses when a checkpoint spreads its numbers unevenly.

    python -m benchmarks.forms.measure --models DIR --data DIR --out FILE.jsonl

Deployable track, both towers, all rows of both test sets, for both towers and for each alone. Calibration images are
made from the even form, once, in the folder `cache` beside the output; the forms compute the same function. Then
`--processes` workers take cells from one list, spread over the GPUs there are; each cell is one line of the output,
written when it is done, so that a second call resumes, and `--minutes` ends one. `benchmarks.forms.table` makes the
tables.
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import d4c
from benchmarks.common.arguments import (
    add_grid,
    argument_parser,
    words,
)
from benchmarks.common.each_tower import scores
from benchmarks.common.problems import PHOTOS, Bench
from benchmarks.common.records import command, measured, setup
from benchmarks.common.rows import Row
from benchmarks.common.tables import SCHEMES
from benchmarks.common.workers import run_cells
from d4c.quantization.symmetries.uneven import uneven

MODELS = ("bench-vit", "bench-rn", "demo-vit", "demo-rn", "stress-vit")
SIGMAS = (0.0, 0.5, 1.0, 2.0)
RECONSTRUCTIONS = ("none", "gptq", "block")


def cells(args: argparse.Namespace) -> list[Row]:
    """The table's cells in the order of their importance: everything of one seed before the next seed."""
    shared = {"preset": args.preset, "rows": args.rows, "label": args.label}
    axes = itertools.product(args.seeds, args.reconstructions, args.only, args.methods, args.sigmas, args.schemes)
    keys = ("seed", "reconstruction", "model", "method", "sigma", "scheme")
    return [shared | dict(zip(keys, values, strict=True)) for values in axes]


def measure(args: argparse.Namespace, bench: Bench, cell: Row) -> Row:
    """Quantize one form of a model and evaluate it."""
    return measure_form(args, bench, cell, command("forms.measure"))


def measure_form(args: argparse.Namespace, bench: Bench, cell: Row, line: str, **settings: Any) -> Row:
    """The row of a cell that a command line asked for, with some settings of `d4c.quantize` of its own."""
    clip = uneven(bench.clip(cell["model"]), cell["sigma"], cell["seed"])
    calibration = bench.calibration(cell["model"], cell["method"], cell["seed"])
    device = bench.places.device
    with measured(device) as figures:
        quantized = d4c.quantize(
            clip, calibration, cell["scheme"], reconstruction=cell["reconstruction"], seed=cell["seed"], **settings
        )
    results = {data: scores(bench.problem(cell["model"], data), quantized) for data in PHOTOS}
    return {
        **cell,
        "quantize": figures,
        "processes": args.processes,
        "setup": setup(device) | {"command": line},
        "results": results,
        "summary": " / ".join(f"{result['top1']['both']:.2f}" for result in results.values()),
    }


def main() -> None:
    parser = argument_parser(__doc__)
    add_grid(parser, MODELS, SCHEMES, RECONSTRUCTIONS)
    parser.add_argument("--label", required=True, help="what code this is, such as before or after; names its rows")
    parser.add_argument("--methods", type=words, default=("d4c",), help="of the synthesis, and real")
    parser.add_argument("--sigmas", type=lambda text: [float(s) for s in words(text)], default=SIGMAS)
    args = parser.parse_args()
    run_cells(args, cells, measure)


if __name__ == "__main__":
    main()
