"""What `--safe-int8` costs: 8-bit weights within -63 to 63, for processors without VNNI, beside the whole range.

    python -m benchmarks.safe_int8.measure --models DIR --data DIR --cache DIR --rows 2000

Both towers at W8A8 on dead leaves, which need neither a GPU nor a model; the same images, prompts and seed for both
ranges. Results are merged into `--out`; a cell that is there is not measured again. The table is written beside it.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch

import d4c
from benchmarks.common.arguments import add_cache_and_rows, add_models_and_data, add_seeds, argument_parser, words
from benchmarks.common.problems import Places, datasets
from benchmarks.common.records import command, setup
from benchmarks.common.rows import Row, is_measured, read_report, top1_line, write_report
from benchmarks.safe_int8.table import RANGES, page

MODELS = ("bench-vit", "bench-rn", "demo-vit", "demo-rn")


def measure(places: Places, cell: Row) -> Row:
    """Metrics of one quantized model on all of its datasets."""
    clip, seed = places.clip(cell["model"]), cell["seed"]
    images = d4c.synthesize(clip, "leaves", "default", seed=seed)
    choices = {"reconstruction": cell["reconstruction"], "safe_int8": cell["safe"], "seed": seed}
    quantized = d4c.quantize(clip, images, "W8A8", **choices)
    return {data: places.problem(clip, data).score(quantized) for data in datasets(cell["model"])}


def main() -> None:
    parser = argument_parser(__doc__)
    add_models_and_data(parser)
    add_cache_and_rows(parser)
    parser.add_argument("--only", type=words, default=list(MODELS), help="models")
    parser.add_argument("--reconstructions", type=words, default=["none", "gptq"])
    add_seeds(parser)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "safe_int8.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    places = Places(args.models, args.data, args.cache, args.rows, "cpu", 50)
    report = read_report(args.out, {"rows": []})
    for seed, reconstruction, model, safe in itertools.product(args.seeds, args.reconstructions, args.only, RANGES):
        cell = {"seed": seed, "reconstruction": reconstruction, "model": model, "safe": safe}
        if is_measured(cell, report["rows"]):
            continue
        results = measure(places, cell)
        report["rows"].append({**cell, "results": results})
        report["setup"] = setup("cpu") | {"command": command("safe_int8.measure")}
        write_report(args.out, report, page)
        print(cell, top1_line(results), flush=True)


if __name__ == "__main__":
    main()
