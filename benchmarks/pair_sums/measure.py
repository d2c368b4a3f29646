"""What it costs that every pair of products fits 16 bits, beside the full range and beside 7 bits for all rows.

    python -m benchmarks.pair_sums.measure --models DIR --data DIR --out FILE.jsonl --processes 40

Deployable track, both towers, all rows of all test sets. Calibration images are made once for each model and seed, in
the folder `cache` beside the output. Then `--processes` workers take cells from one list, spread over the GPUs there
are; each cell is one line of the output, written when it is done, so that a second call resumes, and `--minutes` ends
one. `benchmarks.pair_sums.table` makes the table.
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
from benchmarks.common.problems import Bench, datasets
from benchmarks.common.records import command, measured, setup
from benchmarks.common.rows import Row, top1_line
from benchmarks.common.workers import run_cells
from d4c.deployment.saturating import saturating_layers
from d4c.models.clip import CLIP
from d4c.quantization.placement import default_overrides

MODELS = ("bench-rn", "bench-vit", "demo-rn", "demo-vit")
SCHEMES = ("W8A8", "W4A8")
RANGES = ("full", "pairs", "seven")
RECONSTRUCTIONS = ("gptq", "block")


def cells(args: argparse.Namespace) -> list[Row]:
    """The table's cells: everything of one seed before the next seed."""
    shared = {"preset": args.preset, "rows": args.rows, "method": args.method}
    axes = itertools.product(args.seeds, args.reconstructions, args.only, args.schemes, args.ranges)
    keys = ("seed", "reconstruction", "model", "scheme", "range")
    return [shared | dict(zip(keys, values, strict=True)) for values in axes]


def settings(clip: CLIP, scheme: str, range_name: str) -> dict[str, Any]:
    """The scheme and the fields of `QuantizeConfig` that give 8-bit weights a range; "seven" is one bit less."""
    if range_name != "seven":
        return {"scheme": scheme, "full_range": range_name == "full"}
    exceptions = dict.fromkeys(default_overrides(clip, "deployable"), "W7A8")
    return {"scheme": scheme.replace("W8", "W7"), "overrides": exceptions, "full_range": True}


def measure(args: argparse.Namespace, bench: Bench, cell: Row) -> Row:
    """Quantize a model and evaluate it on its test sets."""
    clip, seed, device = bench.clip(cell["model"]), cell["seed"], bench.places.device
    calibration = bench.calibration(cell["model"], cell["method"], seed)
    choices = settings(clip, cell["scheme"], cell["range"])
    with measured(device) as figures:
        quantized = d4c.quantize(
            clip, calibration, **choices, reconstruction=cell["reconstruction"], iterations=args.iterations, seed=seed
        )
    results = {data: bench.problem(cell["model"], data).score(quantized) for data in datasets(cell["model"])}
    return {
        **cell,
        "saturating": len(saturating_layers(quantized)),
        "iterations": args.iterations,
        "quantize": figures,
        "processes": args.processes,
        "setup": setup(device) | {"command": command("pair_sums.measure")},
        "results": results,
        "summary": top1_line(results),
    }


def main() -> None:
    parser = argument_parser(__doc__)
    add_grid(parser, MODELS, SCHEMES, RECONSTRUCTIONS)
    parser.add_argument("--method", default="d4c", help="of the synthesis")
    parser.add_argument("--ranges", type=words, default=RANGES)
    parser.add_argument("--iterations", type=int, help="of learned blocks; by default those of the track")
    args = parser.parse_args()
    run_cells(args, cells, measure)


if __name__ == "__main__":
    main()
