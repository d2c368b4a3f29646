"""What each term of the synthesis changes: the measures and pictures of `d4c inspect` for all methods side by side.

    python benchmarks/inspection.py --models DIR --sets DIR --real FILE.parquet

`--sets` holds the folders MODEL-METHOD-default-0 that `calibration.py --part images --preset default --seeds 0` writes
with `--methods pink,pse,pgsi,pgsi+scg,pgsi+pae,d4c` (for bench-rn bns in the place of pse); noise and dead leaves are
made here. Writes results/inspection.json, results/inspection.md and the pictures of docs/synthesis.md. One to two
minutes a model on a CPU core.
"""

from __future__ import annotations

import argparse
import json
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont

import d4c
from benchmarks.common.problems import commit
from d4c.calibration.images import CalibrationSet
from d4c.calibration.prompts import prompt_features
from d4c.inspection.embedding import embedding_map
from d4c.inspection.figures import activations_figure, coverage_figure, embedding_figure, structure_figure
from d4c.inspection.inspect_sets import inspect
from d4c.inspection.report import Inspection
from d4c.models.clip import CLIP

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
BASELINES = {"bench-vit": "pse", "bench-rn": "bns"}
TERMS = ("pgsi", "pgsi+scg", "pgsi+pae", "d4c")
ORDER = ("noise", "pink", "leaves", "bns", "pse", *TERMS, "real")
FREE = ("noise", "pink", "leaves")

PROVENANCE = ("preset", "seed", "precision", "recognized", "pixels")

COLUMNS = 6
SIDE = 64
ZOOM = 2
LABEL = 96
LINE = 22

PROMPTS = {
    "nearest prompts": ("nearest_prompts", 1, ".0f"),
    "recognized, %": ("recognized", 100, ".0f"),
    "cosine with nearest prompt": ("nearest_cosine", 1, ".2f"),
    "KL from uniform, nats": ("kl", 1, ".2f"),
    "KL of the set's mean": ("kl_of_mean", 1, ".2f"),
    "1-NN tells it from real, %": ("nearest_neighbor", 100, ".0f"),
}
STRUCTURE = {
    "contrast": ("fg_bg_contrast", 1, ".3f"),
    "variance": ("fg_bg_variance", 1, ".3f"),
    "entropy, nats": ("entropy", 1, ".2f"),
    "spectral slope": ("slope", 1, ".1f"),
    "range width": ("width", 1, ".2f"),
    "range overlap": ("overlap", 1, ".2f"),
    "overlap at the worst layer": ("worst_overlap", 1, ".2f"),
}


def picture_rows(sets: dict[str, CalibrationSet]) -> Image.Image:
    """The first images of each set in a row of its own, below the prompts that sets with prompts have in common."""
    tile, gap = SIDE * ZOOM, 4
    page = Image.new("RGB", (LABEL + COLUMNS * (tile + gap), LINE + len(sets) * (tile + gap)), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(16)
    shared = {given.prompts[:COLUMNS] for given in sets.values() if any(given.prompts)}
    for column, prompt in enumerate(shared.pop() if len(shared) == 1 else ()):
        name = prompt.removeprefix("a photo of a ").removeprefix("a photo of an ").removesuffix(".")
        draw.text((LABEL + column * (tile + gap), 0), name, "black", font)
    for row, (name, given) in enumerate(sets.items()):
        top = LINE + row * (tile + gap)
        draw.text((0, top + tile // 2 - 10), name, "black", font)
        for column, pixels in enumerate(given.pictures()[:COLUMNS]):
            small = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            large = small.resize((tile, tile), Image.Resampling.NEAREST)
            page.paste(large, (LABEL + column * (tile + gap), top))
    return page


def drawn(figure: Figure) -> Image.Image:
    file = BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file).convert("RGB")


def small_png(picture: Image.Image, path: Path) -> None:
    """As a PNG of 96 colors, with which none of the pictures takes more than 150 kB."""
    picture.quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path.name, f"{path.stat().st_size / 1000:.0f} kB", flush=True)


def make_pictures(model: str, found: Inspection, sets: dict[str, CalibrationSet]) -> None:
    """All sets where each has a row of its own; where they are drawn over one another only the ones to compare."""
    reports = {name: found.sets[name] for name in ORDER if name in found.sets}
    few = [name for name in ("noise", "leaves", BASELINES[model], "d4c", "real") if name in reports]
    points = embedding_map({name: found.features[name] for name in few})
    pictures = {
        "images": picture_rows({name: sets[name] for name in (BASELINES[model], *TERMS)}),
        "coverage": drawn(coverage_figure({name: report.coverage for name, report in reports.items()})),
        "structure": drawn(structure_figure({name: report.structure for name, report in reports.items()})),
        "embedding": drawn(embedding_figure(points)),
        "activations": drawn(activations_figure({name: reports[name].fits for name in few}, found.reference)),
    }
    for name, picture in pictures.items():
        small_png(picture, IMAGES / f"{model}-{name}.png")


def table(summary: dict[str, dict[str, Any]], columns: dict[str, tuple[str, float, str]]) -> list[str]:
    lines = ["| images | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    for name in (name for name in ORDER if name in summary):
        values = [(summary[name][key], factor, form) for key, factor, form in columns.values()]
        cells = ["" if value is None else f"{factor * value:{form}}" for value, factor, form in values]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """Two parts that a page can take in by their names, each with a table a model."""
    lines = ["<!-- --8<-- [start:prompts] -->"]
    for model, found in results.items():
        chance = found["summary"]["real"]["expected_prompts"]
        lines += [
            f"**{model}**, {found['images']} images a set; {chance:.0f} nearest prompts are expected by chance:",
            "",
        ]
        lines += table(found["summary"], PROMPTS)
    lines += ["<!-- --8<-- [end:prompts] -->", "<!-- --8<-- [start:structure] -->"]
    for model, found in results.items():
        lines += [
            f"**{model}**, {found['patches']} patches an image; ranges relative to real images, median layer:",
            "",
        ]
        lines += table(found["summary"], STRUCTURE)
    return "\n".join([*lines, "<!-- --8<-- [end:structure] -->", ""])


def twins(clip: CLIP, prompts: tuple[str, ...]) -> int:
    """How many prompts have the same embedding as another one."""
    texts = prompt_features(clip, prompts)
    return int(((texts @ texts.T > 0.9999).sum(1) > 1).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--sets", type=Path, required=True)
    parser.add_argument("--real", type=Path, required=True)
    args = parser.parse_args()
    results = {}
    for model, baseline in BASELINES.items():
        clip = d4c.load(args.models / f"{model}.safetensors")
        methods = ("pink", baseline, *TERMS)
        sets = {method: CalibrationSet.load(args.sets / f"{model}-{method}-default-0") for method in methods}
        found = inspect(clip, sets, f"parquet:{args.real}")
        results[model] = {
            "images": found.images,
            "real": args.real.name,
            "commit": commit(),
            "patches": found.sets["real"].structure.patches,
            "indistinguishable_prompts": twins(clip, found.prompts),
            "made": {name: {key: given.provenance.get(key) for key in PROVENANCE} for name, given in sets.items()},
            "summary": found.summary(),
        }
        make_pictures(model, found, sets)
        if model == "bench-vit":
            free = {name: d4c.synthesize(clip, name, images=COLUMNS, seed=0) for name in FREE}
            small_png(picture_rows(free), IMAGES / "free-images.png")
    folder = Path(__file__).parent / "results"
    (folder / "inspection.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / "inspection.md").write_text(markdown(results), encoding="utf-8")


if __name__ == "__main__":
    main()
