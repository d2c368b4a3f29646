"""What the pool of the small SigLIP costs with values and first layer at the scheme's bits, instead of 8.

    python -m benchmarks.siglip.pool --models DIR --data DIR --out FILE.jsonl

Otherwise as `benchmarks.siglip.measure`, whose images it shares; `benchmarks.siglip.table` makes the table.
"""

from __future__ import annotations

import argparse
import itertools

from benchmarks.common.arguments import add_grid, argument_parser, words
from benchmarks.common.problems import Bench
from benchmarks.common.records import command
from benchmarks.common.rows import Row
from benchmarks.common.workers import run_cells
from benchmarks.siglip.measure import METHODS, measure_cell

SCHEMES = ("W4A8", "W4A4")
POOLS: dict[str, str | None] = {"the scheme's bits": None, "8 bits": "W8A8"}
"""Schemes of the pool's values and first layer, by their names in a row; None is that of the others."""
LAYERS = "image.pool.{v,mlp.fc1}"
"""What had the scheme's bits before the whole pool got 8."""


def cells(args: argparse.Namespace) -> list[Row]:
    """Everything of one seed before the next seed."""
    shared = {"preset": args.preset, "rows": args.rows}
    axes = itertools.product(args.seeds, args.reconstructions, args.only, args.methods, args.schemes, POOLS)
    keys = ("seed", "reconstruction", "model", "method", "scheme", "pool")
    return [shared | dict(zip(keys, values, strict=True)) for values in axes]


def measure(args: argparse.Namespace, bench: Bench, cell: Row) -> Row:
    overrides = {LAYERS: POOLS[cell["pool"]] or cell["scheme"]}
    return measure_cell(args, bench, cell, command("siglip.pool"), overrides=overrides)


def main() -> None:
    parser = argument_parser(__doc__)
    add_grid(parser, ("small-siglip",), SCHEMES, ("gptq",))
    parser.add_argument("--methods", type=words, default=("leaves",), help=f"images, of {', '.join(METHODS)}")
    run_cells(parser.parse_args(), cells, measure)


if __name__ == "__main__":
    main()
