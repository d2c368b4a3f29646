"""Learned blocks at W4A4 beside the same with other weights of tokens and more steps: what an option is worth.

    python -m benchmarks.forms.learning --models DIR --data DIR --out FILE.jsonl

Vision transformers, whose tokens an importance can weight; otherwise as `benchmarks.forms.measure`, whose calibration
images it shares. `benchmarks.forms.learning_table` makes the table.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping
from typing import Any

from benchmarks.common.arguments import add_grid, argument_parser, require_names
from benchmarks.common.problems import Bench
from benchmarks.common.records import command
from benchmarks.common.rows import Row
from benchmarks.common.workers import run_cells
from benchmarks.forms.measure import measure_form

MODELS = ("bench-vit", "demo-vit", "stress-vit")
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "embedding": {"importance": "embedding"},
    "zeroshot": {"importance": "zeroshot"},
    "1,000 steps": {"iterations": 1000},
    "embedding; 1,000 steps": {"importance": "embedding", "iterations": 1000},
}


def cells(args: argparse.Namespace) -> list[Row]:
    """Everything of one seed before the next seed."""
    shared = {"preset": args.preset, "rows": args.rows, "reconstruction": "block", "method": "d4c"}
    axes = itertools.product(args.seeds, args.settings, args.only, args.sigmas, args.schemes)
    return [shared | dict(zip(("seed", "settings", "model", "sigma", "scheme"), v, strict=True)) for v in axes]


def measure(args: argparse.Namespace, bench: Bench, cell: Row) -> Row:
    return measure_form(args, bench, cell, command("forms.learning"), **SETTINGS[cell["settings"]])


def main() -> None:
    parser = argument_parser(__doc__)
    add_grid(parser, MODELS, ("W4A4",), ("block",))
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), help=f"of {' | '.join(SETTINGS)}")
    parser.add_argument("--sigmas", type=float, nargs="+", default=[0.0], help="forms; 0 is the even one")
    args = parser.parse_args()
    require_names(parser, "settings", args.settings, SETTINGS)
    run_cells(args, cells, measure)


if __name__ == "__main__":
    main()
