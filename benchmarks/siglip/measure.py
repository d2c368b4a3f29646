"""Accuracy of a small SigLIP after quantization, beside that of bench-vit in the same run.

    python -m benchmarks.siglip.measure --models DIR --data DIR --real FILE --out FILE.jsonl --processes 40

`--models` holds bench-vit.safetensors and the folder small-siglip that `benchmarks.siglip.train` wrote. Deployable
track, all rows of both test sets, for both towers and for each alone. Images: noise, dead leaves, those of d4c with the
prompt loss as published and in the sigmoid form of SigLIP, and photographs. `--processes` workers take cells from one
list, spread over the GPUs there are, and make what they share on first use, in the folder `cache` beside the output;
each cell is one line of the output, written when it is done, so that a second call resumes, and `--minutes` ends one.
`benchmarks.siglip.table` makes the tables.
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
from d4c.synthesis.config import PromptForm

MODELS = ("small-siglip", "bench-vit")
METHODS: dict[str, tuple[str, PromptForm]] = {
    "noise": ("noise", "softmax"),
    "leaves": ("leaves", "softmax"),
    "d4c": ("d4c", "softmax"),
    "d4c-sigmoid": ("d4c", "sigmoid"),
    "real": ("real", "softmax"),
}
"""Methods of synthesis and forms of the prompt loss, by their names in a row."""
RECONSTRUCTIONS = ("gptq", "block")


def cells(args: argparse.Namespace) -> list[Row]:
    """All cells, everything of one seed before the next seed; the sigmoid form only where a model has one."""
    shared = {"preset": args.preset, "rows": args.rows}
    axes = itertools.product(args.seeds, args.reconstructions, args.only, args.methods, args.schemes)
    keys = ("seed", "reconstruction", "model", "method", "scheme")
    every = [shared | dict(zip(keys, values, strict=True)) for values in axes]
    return [cell for cell in every if cell["model"] != "bench-vit" or METHODS[cell["method"]][1] == "softmax"]


def measure(args: argparse.Namespace, bench: Bench, cell: Row) -> Row:
    """Quantize a model with one set of images and evaluate it."""
    return measure_cell(args, bench, cell, command("siglip.measure"))


def measure_cell(args: argparse.Namespace, bench: Bench, cell: Row, line: str, **settings: Any) -> Row:
    """The row of a cell that a command line asked for, with some settings of `d4c.quantize` of its own."""
    method, form = METHODS[cell["method"]]
    clip = bench.clip(cell["model"])
    calibration = bench.calibration(cell["model"], method, cell["seed"], form)
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
    parser.add_argument("--methods", type=words, default=tuple(METHODS), help="images")
    args = parser.parse_args()
    run_cells(args, cells, measure)


if __name__ == "__main__":
    main()
