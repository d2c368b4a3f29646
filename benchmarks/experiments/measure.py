"""Measures the grids of this folder, which share images, cells and workers, for some minutes.

    python -m benchmarks.experiments.measure --out DIR --processes 48 --minutes 8

Call it where the folders `models` (bench-vit, bench-rn and stress-vit as .safetensors) and `data` (tiny-imagenet-val,
tiny-imagenet-train and cifar10-test as .parquet) are. A second call resumes. A cell that fails is named and left out.
`benchmarks.experiments.table` makes the tables.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.common.arguments import argument_parser, words
from benchmarks.common.workers import PatientWorkers
from d4c.comparison.compare import compare_all
from d4c.comparison.config import ComparisonConfig, cells, comparison_config
from d4c.comparison.store import stores_of
from d4c.device import resolve_device
from d4c.run.config import read_toml
from d4c.storage.files import write_json

FOLDER = Path(__file__).parent / "grids"
GRIDS = (
    *("methods-4bit", "emoji-4bit", "blocks-4bit", "methods-8bit", "emoji-8bit", "published-4bit", "domain"),
    *("iterations-3000", *(f"images-{count}" for count in (256, 32, 8, 64, 16))),
    *(f"iterations-{count}" for count in (1000, 100, 50, 200)),
    *("prompts", "published-8bit"),
)
"""In the order of their importance, but what takes long before its like."""

STORE = "store"
"""Folder of images and cells."""
INDEX = "index.json"
"""Names the file of each cell of each grid, so that tables can be made where models and data are not."""


def read_grid(name: str, toy: bool = False) -> ComparisonConfig:
    grid = comparison_config(read_toml(FOLDER / f"{name}.toml"))
    if not toy:
        return grid
    small = replace(grid, models=("demo-vit",), seeds=(0,), schemes=grid.schemes[:1], reconstructions=("none",))
    return replace(small, images=4, iterations=2, limit=8)


def add_to_index(folder: Path, grids: dict[str, ComparisonConfig]) -> None:
    """Write which file each cell of some grids has, or will have."""
    index = read_index(folder)
    for name, store in zip(grids, stores_of(list(grids.values()), folder / STORE), strict=True):
        index[name] = [{"cell": asdict(cell), "file": store.file(cell).name} for cell in cells(store.config)]
    write_json(folder / INDEX, index)


def read_index(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The cells of each grid and their files."""
    file = folder / INDEX
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of images, cells and their index")
    parser.add_argument("--only", type=words, default=GRIDS, help="grids, of which the first are begun first")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin nothing after so long")
    parser.add_argument("--toy", action="store_true", help="embedded models, few images and steps, to try the script")
    args = parser.parse_args()
    # An end from outside, such as a time limit, ends the workers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    grids = [read_grid(name, args.toy) for name in args.only]
    workers = PatientWorkers(args.processes, resolve_device("auto"))
    args.out.mkdir(parents=True, exist_ok=True)
    add_to_index(args.out, dict(zip(args.only, grids, strict=True)))
    for name, comparison in zip(
        args.only, compare_all(grids, args.out / STORE, workers, minutes=args.minutes), strict=True
    ):
        print(f"{name}: {comparison.missing} cells missing, {len(comparison.results)} measured")


if __name__ == "__main__":
    main()
