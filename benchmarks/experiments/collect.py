"""Collects what `measure` and `maps` wrote into the files under results/.

    python -m benchmarks.experiments.collect --store out/experiments --maps out/maps

Of each model, scheme and
track only the seeds count that all methods have; differences are beside dead leaves.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from benchmarks.common.arguments import argument_parser
from benchmarks.common.rows import write_text
from benchmarks.experiments.measure import GRIDS, ORIGINS, read_grid
from d4c.comparison.compare import Comparison
from d4c.comparison.config import REAL, Cell, ComparisonConfig, cells, name_of, prompts_file
from d4c.comparison.store import Results, Store
from d4c.comparison.summary import SummaryRow, summary
from d4c.inspection.embedding import principal_map
from d4c.storage.files import atomic_file

RESULTS = Path(__file__).parent / "results"
BASE = "leaves"
"""What other methods are compared with: structure that asks nothing of the model."""
DIGITS = 4


def measured(grid: ComparisonConfig, folder: Path) -> Comparison:
    """The cells that every method has, leaves first."""
    methods = tuple(sorted(grid.methods, key=lambda method: method != BASE))
    store = Store(replace(grid, methods=methods), folder)
    origins = json.loads((folder / ORIGINS).read_text())
    store.models, store.data = origins["models"], origins["data"]
    results = {cell: store.result(cell) for cell in cells(store.config) if store.is_done(cell)}
    combinations: dict[Cell, int] = {}
    for cell in results:
        key = replace(cell, method="")
        combinations[key] = combinations.get(key, 0) + 1
    whole: Results = {
        cell: result
        for cell, result in results.items()
        if cell.is_float or combinations[replace(cell, method="")] == len(methods)
    }
    return Comparison(store.config, whole)


def rows_of(name: str, folder: Path) -> Iterator[dict[str, Any]]:
    """The rows of a grid for the file, under short names."""
    grid = read_grid(name)
    for row in summary(measured(grid, folder)):
        yield {"grid": name, "images": grid.images, "iterations": grid.iterations, **short(row)}


def short(row: SummaryRow) -> dict[str, Any]:
    """A row with names instead of paths, and rounded."""
    data = row.to_dict()
    names = {
        "dataset": Path(row.dataset.partition(":")[2] or row.dataset).stem,
        "model": Path(row.model).stem,
        "method": method_name(row.method),
    }
    return {key: round(value, DIGITS) if isinstance(value, float) else value for key, value in (data | names).items()}


def method_name(method: str) -> str:
    """The name of a method in tables: "real:tiny-imagenet-train", "d4c:nouns-10"."""
    file = prompts_file(method)
    if method.startswith(REAL):
        return f"real:{Path(method.rpartition(':')[2]).stem}"
    return method if file is None else f"{name_of(method)}:{file.stem}"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--maps", type=Path, help="folder that `maps` wrote")
    args = parser.parse_args()
    rows = [row for name in GRIDS for row in rows_of(name, args.store)]
    with atomic_file(RESULTS / "experiments.csv") as new, new.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    if args.maps:
        write_text(RESULTS / "inspection.json", (args.maps / "inspection.json").read_text())
        features = load_file(args.maps / "features.safetensors")
        maps = {}
        for model in dict.fromkeys(name.split("/")[0] for name in features):
            beginning = f"{model}/features/"
            sets = {n.removeprefix(beginning): t.float() for n, t in features.items() if n.startswith(beginning)}
            points, share = principal_map(sets)
            rounded = {name: [[round(x, 3), round(y, 3)] for x, y in part] for name, part in points.items()}
            maps[model] = {"share": round(share, 3), "points": rounded}
        write_text(RESULTS / "maps.json", json.dumps(maps, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
