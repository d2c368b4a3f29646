"""What `--safe-int8` costs: 8-bit weights within -63 to 63, for processors without VNNI, beside the whole range.

    python benchmarks/safe_int8.py --models DIR --data DIR --cache DIR --rows 2000

Both towers at W8A8 on dead leaves, which need neither a GPU nor a model; the same images, prompts and seed for both
ranges. Results are merged into `--out`; a cell that stands there is not measured again. The table is written beside it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from pathlib import Path
from typing import Any

import torch

import d4c
from benchmarks.common.problems import PHOTOS, Places, command, datasets, setup, top1
from d4c.files import atomic_file

MODELS = ("bench-vit", "bench-rn", "demo-vit", "demo-rn")
RANGES = {False: "-128 to 127", True: "-63 to 63"}
NAMES = {"none": "ranges only", "gptq": "GPTQ", "demo": "emoji pack"}
Row = dict[str, Any]


def measure(places: Places, cell: Row) -> Row:
    """Metrics of one quantized model on all of its datasets."""
    clip, seed = places.clip(cell["model"]), cell["seed"]
    images = d4c.synthesize(clip, "leaves", "default", seed=seed)
    choices = {"reconstruction": cell["reconstruction"], "safe_int8": cell["safe"], "seed": seed}
    quantized = d4c.quantize(clip, "W8A8", images, **choices)
    return {data: places.problem(clip, data).score(quantized) for data in datasets(cell["model"])}


def table(rows: list[Row]) -> str:
    """Means over seeds, and the mean of the differences seed by seed with the lowest and the highest."""
    ranges = " | ".join(RANGES.values())
    lines = [f"| model | test set | weights | float | {ranges} | difference | 1 - cosine, thousandths: {ranges} |"]
    lines.append("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for model, reconstruction in dict.fromkeys((row["model"], row["reconstruction"]) for row in rows):
        own = [row for row in rows if (row["model"], row["reconstruction"]) == (model, reconstruction)]
        for data in datasets(model):
            found = {
                safe: {row["seed"]: row["results"][data]["top1"]["value"] for row in own if row["safe"] == safe}
                for safe in RANGES
            }
            both = sorted(found[False].keys() & found[True].keys())
            if not both:
                continue
            changes = [found[True][seed] - found[False][seed] for seed in both]
            means = [f"{statistics.mean(found[safe][seed] for seed in both):.2f}" for safe in RANGES]
            change = f"{statistics.mean(changes):+.2f} ({min(changes):+.2f} to {max(changes):+.2f})"
            names = [NAMES.get(word, word) for word in (data, reconstruction)]
            cosines = [
                statistics.mean(row["results"][data]["fidelity"]["cosine"] for row in own if row["safe"] == safe)
                for safe in RANGES
            ]
            far = [f"{1e3 * (1 - cosine):.2f}" for cosine in cosines]
            cells = [model, *names, f"{own[0]['results'][data]['float_top1']:.2f}", *means, change, *far]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def page(results: Row) -> str:
    about = results["setup"]
    seeds = sorted({row["seed"] for row in results["rows"]})
    counts = {data: found["count"] for row in results["rows"] for data, found in row["results"].items()}
    pictures = ", ".join(f"{count:,} of {NAMES.get(data, data)}" for data, count in counts.items())
    return (
        "# 8-bit weights in seven bits\n\n"
        f"Top-1 in per cent, both towers at W8A8, calibrated on dead leaves; seeds {seeds}.\n"
        f"Differences seed by seed: mean, lowest and highest. Pictures: {pictures}. {about['device']}, "
        f"torch {about['versions']['torch']}, commit {about['commit']}, `{about['command']}`.\n\n"
        f"{table(results['rows'])}"
    )


def main() -> None:
    def words(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of the bench models")
    parser.add_argument("--data", type=Path, default=Path("data"), help=f"folder of {', '.join(PHOTOS)} as .parquet")
    parser.add_argument("--cache", type=Path, default=Path("out/cache"), help="folder for pixels and float embeddings")
    parser.add_argument("--rows", type=int, help="of each dataset, evenly spread; all by default")
    parser.add_argument("--only", type=words, default=list(MODELS), help="models")
    parser.add_argument("--reconstructions", type=words, default=["none", "gptq"])
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in words(text)], default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "safe_int8.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    places = Places(args.models, args.data, args.cache, args.rows, "cpu", 50)
    results: Row = json.loads(args.out.read_text()) if args.out.exists() else {"rows": []}
    for seed, reconstruction, model, safe in itertools.product(args.seeds, args.reconstructions, args.only, RANGES):
        cell = {"seed": seed, "reconstruction": reconstruction, "model": model, "safe": safe}
        if any(cell.items() <= row.items() for row in results["rows"]):
            continue
        found = measure(places, cell)
        results["rows"].append({**cell, "results": found})
        results["setup"] = setup("cpu") | {"command": command("safe_int8.py")}
        with atomic_file(args.out) as file:
            file.write_text(json.dumps(results, indent=1) + "\n")
        print(cell, top1(found), flush=True)
    with atomic_file(args.out.with_suffix(".md")) as file:
        file.write_text(page(results))


if __name__ == "__main__":
    main()
