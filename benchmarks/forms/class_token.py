"""A range of its own at 8 bits for the class token (`wide_class_token`) beside one range for all rows.

    python -m benchmarks.forms.class_token --models DIR --data DIR --out FILE.jsonl

Vision transformers with fewer than 8 bits of activations, both towers; otherwise as `benchmarks.forms.measure`, whose
calibration images it shares. `benchmarks.forms.class_token_table` makes the table.
"""

from __future__ import annotations

import argparse
import itertools

from benchmarks.common.arguments import add_grid, argument_parser, words
from benchmarks.common.problems import Bench
from benchmarks.common.records import command
from benchmarks.common.rows import Row
from benchmarks.common.workers import run_cells
from benchmarks.forms.measure import RECONSTRUCTIONS, measure_form

MODELS = ("bench-vit", "demo-vit", "stress-vit")
SCHEMES = ("W4A4", "W6A6")


def cells(args: argparse.Namespace) -> list[Row]:
    """Everything of one seed before the next seed."""
    shared = {"preset": args.preset, "rows": args.rows, "sigma": 0.0}
    axes = itertools.product(args.seeds, args.methods, args.reconstructions, args.only, args.schemes, (False, True))
    keys = ("seed", "method", "reconstruction", "model", "scheme", "wide")
    return [shared | dict(zip(keys, values, strict=True)) for values in axes]


def measure(args: argparse.Namespace, bench: Bench, cell: Row) -> Row:
    return measure_form(args, bench, cell, command("forms.class_token"), wide_class_token=cell["wide"])


def main() -> None:
    parser = argument_parser(__doc__)
    add_grid(parser, MODELS, SCHEMES, RECONSTRUCTIONS)
    parser.add_argument("--methods", type=words, default=("d4c",), help="of the synthesis, and real")
    run_cells(parser.parse_args(), cells, measure)


if __name__ == "__main__":
    main()
