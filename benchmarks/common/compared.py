"""The cells of a comparison as rows, for tables that are also made from rows of earlier scripts.

    d4c compare --config GRID.toml -o DIR
    python -m benchmarks.common.compared DIR --part ranges --out FILE.jsonl

Call it where the models and data of the grid are, since cells are known by their content. A row that the file holds is
not added again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.common.arguments import argument_parser
from benchmarks.common.rows import Row, append_row, is_measured, read_rows
from d4c.comparison.compare import Comparison, load_comparison
from d4c.comparison.config import REAL, Cell


def rows_of(comparison: Comparison, part: str) -> list[Row]:
    """A row for each quantized cell, with short names of models, methods and datasets."""
    results = comparison.results.items()
    return [
        row(comparison, cell, result, part) for cell, result in results if not cell.is_float and "unfit" not in result
    ]


def row(comparison: Comparison, cell: Cell, result: dict[str, Any], part: str) -> Row:
    config, floats = comparison.config, comparison.results[Cell(cell.model)]["results"]
    learning = config.quantization(cell).resolved().learning()
    metrics = {
        Path(spec).stem: {**data["metrics"], "float_top1": floats[spec]["metrics"]["top1"]["value"]}
        for spec, data in result["results"].items()
    }
    return {
        "part": part,
        "preset": config.preset,
        "rows": config.limit,
        "seed": cell.seed,
        "model": Path(cell.model).stem,
        "method": "real" if cell.method.startswith(REAL) else cell.method,
        "scheme": cell.scheme,
        "reconstruction": cell.reconstruction,
        "steps": config.steps,
        "recipe": {"iterations": learning.iterations, "batch_size": learning.batch_size},
        "quantize_seconds": round(result["seconds"]["quantize"], 2),
        "quantize": {"seconds": result["seconds"]["quantize"], "memory_gib": None},
        "synthesis_seconds": result["seconds"]["synthesize"],
        "device": result["device"],
        "versions": result["versions"],
        "setup": {"device": result["device"], "versions": result["versions"]},
        "results": metrics,
    }


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("folder", type=Path, help="what d4c compare wrote")
    parser.add_argument("--part", required=True, help="what the tables call these rows")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    known = read_rows(args.out)
    for each in rows_of(load_comparison(args.folder), args.part):
        if not is_measured(each, known):
            append_row(args.out, each)


if __name__ == "__main__":
    main()
