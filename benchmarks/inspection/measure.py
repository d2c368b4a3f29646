"""What each term of the synthesis changes: the measures and pictures of `d4c inspect` for all methods side by side.

    python -m benchmarks.inspection.measure --store DIR --real FILE.parquet

`--store` is what `d4c compare --config benchmarks/calibration/grids/ablation-ranges.toml` wrote; its first seed counts.
Noise and dead leaves are made here. Writes the report, its tables and the pictures of docs/synthesis.md. One to two
minutes a model on a CPU core.
"""

from __future__ import annotations

from pathlib import Path

import d4c
from benchmarks.common.arguments import argument_parser
from benchmarks.common.records import commit
from benchmarks.common.rows import Row, write_report
from benchmarks.inspection.pictures import COLUMNS, FOLDER, make_pictures, picture_rows, small_png
from benchmarks.inspection.table import TERMS, page
from d4c.calibration.images import CalibrationSet
from d4c.calibration.prompts import prompt_features
from d4c.comparison.config import Source, comparison_config
from d4c.comparison.store import Store
from d4c.inspection.inspect_sets import inspect
from d4c.models.clip import CLIP
from d4c.run.config import read_toml

GRID = Path(__file__).parents[1] / "calibration" / "grids" / "ablation-ranges.toml"
BASELINES = {"bench-vit": "pse", "bench-rn": "bns"}
FREE = ("noise", "pink", "leaves")
PROVENANCE = ("seed", "precision", "recognized", "pixels")


def twins(clip: CLIP, prompts: tuple[str, ...]) -> int:
    """How many prompts have the same embedding as another one."""
    texts = prompt_features(clip, prompts)
    return int(((texts @ texts.T > 0.9999).sum(1) > 1).sum())


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "inspection.json")
    args = parser.parse_args()
    report: Row = {}
    store = Store(comparison_config(read_toml(GRID)), args.store)
    for path in store.config.models:
        clip, model = d4c.load(path), Path(path).stem
        baseline = BASELINES[model]
        methods = ("pink", baseline, *TERMS)
        sets = {method: CalibrationSet.load(store.images(Source(path, method, 0))) for method in methods}
        inspection = inspect(clip, sets, f"parquet:{args.real}")
        report[model] = {
            "images": inspection.images,
            "real": args.real.name,
            "commit": commit(),
            "patches": inspection.sets["real"].structure.patches,
            "indistinguishable_prompts": twins(clip, inspection.prompts),
            "made": {name: {key: images.provenance.get(key) for key in PROVENANCE} for name, images in sets.items()},
            "summary": inspection.summary(),
        }
        make_pictures(model, baseline, inspection, sets)
        if model == "bench-vit":
            free = {name: d4c.synthesize(clip, name, images=COLUMNS, seed=0) for name in FREE}
            small_png(picture_rows(free), FOLDER / "free-images.png")
    write_report(args.out, report, page)


if __name__ == "__main__":
    main()
