"""Coverage, structure and map of each method's images beside real ones, from the images of `measure`.

    python -m benchmarks.experiments.maps --out DIR

DIR is that of `measure`. Writes inspection.json (what `d4c inspect` measures) and features.safetensors (embeddings for
the map, some pictures) into DIR/maps, after each model anew. With `--wait MINUTES` it waits for images that `measure`
is still making.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import d4c
from benchmarks.common.arguments import argument_parser, words
from benchmarks.experiments.measure import STORE, read_grid
from d4c.calibration.images import CalibrationSet
from d4c.comparison.config import REAL, Source
from d4c.comparison.store import Store
from d4c.device import resolve_device
from d4c.inspection.inspect_sets import CONTROLS, inspect
from d4c.storage.files import atomic_file, write_json
from d4c.synthesis.methods.table import METHODS

MAPS, INSPECTION, FEATURES = "maps", "inspection.json", "features.safetensors"
SHOWN = 6
"""Images of each set that are kept as pictures."""


def sets_of(store: Store, model: str, until: float) -> dict[str, CalibrationSet]:
    """The first seed's images of each method that serves a model, beside those that `inspect` makes itself."""
    clip = d4c.load(model)
    sets = {}
    for method in store.config.methods:
        if method in CONTROLS or method.startswith(REAL) or not serves(method, clip):
            continue
        source = Source(model, method, 0)
        while not store.has_images(source) and time.monotonic() < until:
            time.sleep(2)
        if store.has_images(source):
            sets[method] = CalibrationSet.load(store.images(source))
    return sets


def serves(method: str, clip: d4c.CLIP) -> bool:
    try:
        METHODS[method].check(clip)
    except d4c.SettingError:
        return False
    return True


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="that of measure")
    parser.add_argument("--grids", type=words, default=["methods-4bit", "emoji-4bit"])
    parser.add_argument("--wait", type=float, default=0.0, metavar="MINUTES", help="for images that are being made")
    parser.add_argument("--toy", action="store_true", help="as in measure")
    args = parser.parse_args()
    until = time.monotonic() + 60 * args.wait
    report: dict[str, Any] = {}
    arrays: dict[str, Tensor] = {}
    for name in args.grids:
        grid = read_grid(name, args.toy)
        store = Store(grid, args.out / STORE)
        (real,) = (method.removeprefix(REAL) for method in grid.methods if method.startswith(REAL))
        for model in grid.models:
            if not (sets := sets_of(store, model, until)):
                continue
            inspection = inspect(d4c.load(model, device=resolve_device("auto")), sets, real, progress=None)
            stem = Path(model).stem
            report[stem] = {"real": real, "images": inspection.images, "summary": inspection.summary()}
            for method, features in inspection.features.items():
                arrays[f"{stem}/features/{method}"] = features.half()
            for method, images in sets.items():
                arrays[f"{stem}/pictures/{method}"] = torch.from_numpy(images.pictures()[:SHOWN])
            keep(args.out / MAPS, report, arrays)
            print(stem, ", ".join(inspection.sets), flush=True)


def keep(folder: Path, report: dict[str, Any], arrays: dict[str, Tensor]) -> None:
    """Write what is measured so far; files appear whole."""
    folder.mkdir(exist_ok=True)
    write_json(folder / INSPECTION, report)
    with atomic_file(folder / FEATURES) as new:
        save_file(arrays, new)


if __name__ == "__main__":
    main()
