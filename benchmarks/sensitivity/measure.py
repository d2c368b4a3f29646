"""Which layers of a CLIP lose the accuracy, and what widths chosen by that are worth against one width for all.

    python -m benchmarks.sensitivity.measure --models DIR --data DIR [--images 16 --limit 500] [--device cuda]

Sensitivity of every layer at W4A8 on dead leaves, which need no model. Then, unless `--limit 0`, uniform schemes beside
mixed precision with ranges only and with GPTQ, on the emoji pack and `--limit` images of Tiny ImageNet and of CIFAR-10.
`--models` holds the safetensors files of the bench models, `--data` tiny-imagenet-val.parquet and cifar10-test.parquet.
A model's part of the report (`--out`) is written when it is done and kept by calls for other models (`--only`); the
tables beside it are made from all parts.
"""

from __future__ import annotations

import argparse
import json
import time
from math import floor
from pathlib import Path

import torch

import d4c
from benchmarks.common.arguments import add_models_and_data, argument_parser, words
from benchmarks.common.problems import PHOTOS, Places
from benchmarks.common.records import command, setup
from benchmarks.common.rows import Row, read_report, write_report
from benchmarks.sensitivity.table import page
from d4c.evaluation.embed import embed
from d4c.evaluation.load_dataset import load_dataset
from d4c.evaluation.score import score
from d4c.models.clip import CLIP
from d4c.quantization.config import Reconstruction
from d4c.quantization.formats.packing import packed_size
from d4c.quantization.layer_patterns import matches_any
from d4c.quantization.placement import default_overrides
from d4c.quantization.sensitivity.allocation import CHOICES, allocate, patterns
from d4c.quantization.sensitivity.measure import Sensitivity, measure_sensitivity

MODELS = ("demo-vit", "demo-rn", "bench-vit", "bench-rn")
SCHEMES = ("W4A8", "W5A8", "W6A8")
COARSE = (4, 6, 8)
MIXED: dict[str, tuple[float | str, tuple[int, ...]]] = {
    "mixed, 5.0 bits": (5.0, CHOICES),
    "mixed as W5A8": ("W5A8", CHOICES),
    "mixed as W5A8, 4, 6 and 8 bits only": ("W5A8", COARSE),
}
RECONSTRUCTIONS: tuple[Reconstruction, ...] = ("none", "gptq")


def mixed(clip: CLIP, sensitivity: Sensitivity, bits: float, widths: tuple[int, ...]) -> dict[str, str]:
    """Overrides of W4A8 that reach a mean of bits per weight, as `quantize(target_bits=...)` chooses them."""
    weighted = [layer for layer in sensitivity.layers if layer.weights]
    fixed = [*default_overrides(clip, "deployable"), "text.token_embedding"]
    free = {x.name: x for x in weighted if not matches_any(fixed, x.name)}
    sizes = {name: {b: packed_size(x.weights, b) for b in widths} for name, x in free.items()}
    held = sum(packed_size(x.weights, 8) for x in weighted if x.name not in free)
    budget = floor(bits * sum(x.weights for x in weighted) / 8) - held
    chosen = allocate({name: {b: x.by_width[b] for b in widths} for name, x in free.items()}, sizes, budget)
    return {p: f"W{b}A8" for p, b in patterns({name: b for name, b in chosen.items() if b != 4}).items()}


def measure(clip: CLIP, args: argparse.Namespace) -> Row:
    images = d4c.synthesize(clip, "leaves", images=args.images, seed=args.seed)
    busy = time.process_time()
    sensitivity = measure_sensitivity(clip, images, "W4A8", widths=CHOICES)
    cpu_seconds = time.process_time() - busy
    return {
        **setup(args.device),
        "command": command("sensitivity.measure"),
        "sensitivity": sensitivity.to_dict(),
        "cpu_seconds": cpu_seconds,
        "seed": args.seed,
        "accuracy": accuracy(clip, images, sensitivity, args) if args.limit else [],
    }


def accuracy(clip: CLIP, images: d4c.CalibrationSet, sensitivity: Sensitivity, args: argparse.Namespace) -> list[Row]:
    """The float model, uniform schemes and mixed precision on every dataset, a row each."""
    datasets = {"emoji pack": load_dataset("demo")}
    for name in PHOTOS:
        datasets[name] = load_dataset(f"parquet:{args.data / name}.parquet").subset(args.limit)
    reference = {name: embed(clip, data, batch_size=250) for name, data in datasets.items()}
    plain = {name: score(reference[name], data).to_dict() for name, data in datasets.items()}
    rows: list[Row] = [{"reconstruction": "", "label": "float", "bits": 32.0, "results": plain}]
    for reconstruction in RECONSTRUCTIONS:
        bits: dict[str, float] = {}
        for label in (*SCHEMES, *MIXED):
            overrides = None
            if label in MIXED:
                target, widths = MIXED[label]
                overrides = mixed(clip, sensitivity, bits[target] if isinstance(target, str) else target, widths)
            scheme = "W4A8" if overrides else label
            model = d4c.quantize(clip, images, scheme, reconstruction=reconstruction, overrides=overrides)
            bits[label] = model.effective_bits()
            results = {
                name: score(embed(model, data, batch_size=250), data, reference=reference[name]).to_dict()
                for name, data in datasets.items()
            }
            row = {"reconstruction": reconstruction, "label": label, "bits": bits[label]}
            print(clip.name, row, {name: round(r["fidelity"]["kl"], 4) for name, r in results.items()}, flush=True)
            rows.append({**row, "overrides": overrides, "results": results})
    return rows


def main() -> None:
    parser = argument_parser(__doc__)
    add_models_and_data(parser)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "sensitivity.json")
    parser.add_argument("--only", type=words, default=list(MODELS), help="models")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--limit", type=int, default=2000, help="images of each dataset; 0: no accuracies")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    places = Places(args.models, args.data, args.out.parent, None, args.device, 0)
    for name in args.only:
        # Through JSON, so that the table of a new part and of an old one are made from the same form.
        part = json.loads(json.dumps(measure(places.clip(name), args)))
        parts = read_report(args.out, {}) | {name: part}
        write_report(args.out, {key: parts[key] for key in MODELS if key in parts}, page)


if __name__ == "__main__":
    main()
