"""Collects what `measure` and `maps` wrote into the files under results/.

    python -m benchmarks.experiments.collect out/experiments

Several folders may be of several machines: a cell counts once, from the first that has it. Of each model, scheme and
track only the seeds count that all methods have; differences are beside dead leaves.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from benchmarks.common.arguments import argument_parser
from benchmarks.common.rows import write_text
from benchmarks.experiments.maps import FEATURES, INSPECTION, MAPS
from benchmarks.experiments.measure import GRIDS, STORE, read_grid, read_index
from benchmarks.experiments.measured_rows import BASE, BY_SEED, RESULTS
from d4c.comparison.compare import Comparison
from d4c.comparison.config import Cell, ComparisonConfig, cells, short_name
from d4c.comparison.store import CELLS, Results
from d4c.comparison.summary import SummaryRow, by_combination, summary
from d4c.inspection.embedding import principal_map
from d4c.storage.files import atomic_file

DIGITS = 4


def measured(name: str, grid: ComparisonConfig, folders: Sequence[Path]) -> Comparison:
    """The cells of a grid, leaves first; where methods are compared with leaves, those that every method has."""
    config = replace(grid, methods=tuple(sorted(grid.methods, key=lambda method: method != BASE)))
    known = results_of(name, folders)
    results = {cell: known[cell] for cell in cells(config) if cell in known}
    methods = Counter(replace(cell, method="") for cell in results)
    whole = {
        cell: result
        for cell, result in results.items()
        if cell.is_float or BASE not in config.methods or methods[replace(cell, method="")] == len(config.methods)
    }
    return Comparison(config, whole)


def results_of(name: str, folders: Sequence[Path]) -> Results:
    """Every cell of a grid that one of the folders has."""
    results: Results = {}
    for folder in folders:
        for entry in read_index(folder).get(name, ()):
            file = folder / STORE / CELLS / entry["file"]
            if file.is_file():
                results.setdefault(Cell(**entry["cell"]), json.loads(file.read_text()))
    return results


def rows_of(name: str, grid: ComparisonConfig, folders: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The rows of a grid for the file, under short names."""
    comparison = measured(name, grid, folders)
    of_all_sets = product(grid.datasets, by_combination(comparison).values())
    for row, (data, results) in zip(summary(comparison), of_all_sets, strict=True):
        figures = (result["results"][data]["metrics"][row.figure]["value"] for result in results)
        yield {
            "grid": name,
            "images": grid.images,
            "iterations": grid.iterations,
            **short(row),
            BY_SEED: " ".join(f"{figure:.{DIGITS}f}" for figure in figures),
        }


def short(row: SummaryRow) -> dict[str, Any]:
    """A row with names instead of paths, and rounded."""
    data = row.to_dict()
    names = {
        "dataset": Path(row.dataset.partition(":")[2] or row.dataset).stem,
        "model": Path(row.model).stem,
        "method": short_name(row.method),
    }
    return {key: round(value, DIGITS) if isinstance(value, float) else value for key, value in (data | names).items()}


def write_maps(folder: Path) -> None:
    """What `maps` measured, and the first two principal components of all embeddings of a model."""
    write_text(RESULTS / INSPECTION, (folder / INSPECTION).read_text())
    features = load_file(folder / FEATURES)
    maps = {}
    for model in dict.fromkeys(name.split("/")[0] for name in features):
        beginning = f"{model}/features/"
        sets = {n.removeprefix(beginning): t.float() for n, t in features.items() if n.startswith(beginning)}
        points, share = principal_map(sets)
        rounded = {name: [[round(x, 3), round(y, 3)] for x, y in part] for name, part in points.items()}
        maps[model] = {"share": round(share, 3), "points": rounded}
    write_text(RESULTS / "maps.json", json.dumps(maps, separators=(",", ":")) + "\n")


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="what measure wrote; maps are taken from the first")
    parser.add_argument("--toy", action="store_true", help="as in measure")
    args = parser.parse_args()
    rows = [row for name in GRIDS for row in rows_of(name, read_grid(name, args.toy), args.folders)]
    with atomic_file(RESULTS / "experiments.csv") as new, new.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    if (args.folders[0] / MAPS).is_dir():
        write_maps(args.folders[0] / MAPS)


if __name__ == "__main__":
    main()
