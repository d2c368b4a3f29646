"""Which layers of a CLIP lose the accuracy, and what widths chosen by that are worth against one width for all.

    python benchmarks/sensitivity.py --models DIR --data DIR --out benchmarks/results/sensitivity [--device cuda]

Sensitivity of every layer at W4A8 on dead leaves, which need no model. Then, unless `--limit 0`, uniform schemes beside
mixed precision with ranges only and with GPTQ, on the emoji pack and `--limit` images of Tiny ImageNet and of CIFAR-10.
`--models` holds the safetensors files of the bench models, `--data` tiny-imagenet-val.parquet and cifar10-test.parquet.
A model's part of OUT.json is written when it is done and kept by calls for other models (`--only`); OUT.md is made from
all parts.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from math import floor
from pathlib import Path
from typing import Any

import torch

import d4c
from benchmarks.common.problems import commit
from d4c.evaluation.embed import embed
from d4c.evaluation.evaluate import score
from d4c.evaluation.load_dataset import load_dataset
from d4c.files import atomic_file
from d4c.models.clip import CLIP
from d4c.quantization.formats.packing import packed_size
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
RECONSTRUCTIONS = ("none", "gptq")


def mixed(clip: CLIP, found: Sensitivity, bits: float, widths: tuple[int, ...]) -> dict[str, str]:
    """Overrides of W4A8 that reach a mean of bits a weight: what `quantize(target_bits=...)` chooses, measured once."""
    weighted = [layer for layer in found.layers if layer.weights]
    fixed = [*default_overrides(clip, "deployable"), r"text\.token_embedding"]
    free = {x.name: x for x in weighted if not any(re.fullmatch(pattern, x.name) for pattern in fixed)}
    sizes = {name: {b: packed_size(x.weights, b) for b in widths} for name, x in free.items()}
    held = sum(packed_size(x.weights, 8) for x in weighted if x.name not in free)
    budget = floor(bits * sum(x.weights for x in weighted) / 8) - held
    chosen = allocate({name: {b: x.by_width[b] for b in widths} for name, x in free.items()}, sizes, budget)
    return {p: f"W{b}A8" for p, b in patterns({name: b for name, b in chosen.items() if b != 4}).items()}


def measure(clip: CLIP, args: argparse.Namespace) -> dict[str, Any]:
    images = d4c.synthesize(clip, "leaves", images=args.images, seed=args.seed)
    busy = time.process_time()
    found = measure_sensitivity(clip, images, "W4A8", widths=CHOICES)
    cpu_seconds = time.process_time() - busy
    gpu = clip.device.type == "cuda"
    return {
        "sensitivity": found.to_dict(),
        "cpu_seconds": cpu_seconds,
        "seed": args.seed,
        "versions": {"d4c": d4c.__version__, "torch": torch.__version__},
        "commit": commit(),
        "device": torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads",
        "accuracy": accuracy(clip, images, found, args) if args.limit else [],
    }


def accuracy(
    clip: CLIP, images: d4c.CalibrationSet, found: Sensitivity, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """The float model, uniform schemes and mixed precision on every dataset, a row each."""
    datasets = {"emoji pack": load_dataset("demo")}
    for name in ("tiny-imagenet-val", "cifar10-test"):
        datasets[name] = load_dataset(f"parquet:{args.data / name}.parquet").subset(args.limit)
    reference = {name: embed(clip, data, batch_size=250) for name, data in datasets.items()}
    plain = {name: score(reference[name], data).to_dict() for name, data in datasets.items()}
    rows: list[dict[str, Any]] = [{"reconstruction": "", "label": "float", "bits": 32.0, "results": plain}]
    for reconstruction in RECONSTRUCTIONS:
        bits: dict[str, float] = {}
        for label in (*SCHEMES, *MIXED):
            overrides = None
            if label in MIXED:
                target, widths = MIXED[label]
                overrides = mixed(clip, found, bits[target] if isinstance(target, str) else target, widths)
            scheme = "W4A8" if overrides else label
            model = d4c.quantize(clip, scheme, images, reconstruction=reconstruction, overrides=overrides)
            bits[label] = model.effective_bits()
            results = {
                name: score(embed(model, data, batch_size=250), data, reference=reference[name]).to_dict()
                for name, data in datasets.items()
            }
            row = {"reconstruction": reconstruction, "label": label, "bits": bits[label]}
            print(clip.name, row, {name: round(r["fidelity"]["kl"], 4) for name, r in results.items()}, flush=True)
            rows.append({**row, "overrides": overrides, "results": results})
    return rows


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        "# Sensitivity of layers, and mixed precision",
        "",
        "Made by `benchmarks/sensitivity.py` with dead leaves as images. Divergence: mean over the images of"
        " KL(float || quantized), in 1/1000 nats, of the zero-shot distribution over 180 generic prompts; deployable"
        " track, ranges only. *Alone*: only this layer is quantized. *Recovery*: by how much the divergence of the"
        " whole quantized model falls when only this layer is left in float.",
    ]
    for name, part in report.items():
        lines += ["", f"## {name}", "", *sensitivity_lines(part)]
        if part["accuracy"]:
            lines += ["", *accuracy_lines(part["accuracy"])]
    return "\n".join(lines) + "\n"


def sensitivity_lines(part: dict[str, Any]) -> list[str]:
    found = part["sensitivity"]
    towers, layers = found["towers"], found["layers"]
    total = sum(row["alone"] for row in layers)
    return [
        f"{found['images']} images, seed {part['seed']}, {part['device']}, torch {part['versions']['torch']};"
        f" {part['cpu_seconds']:.0f} s of processor time. At {found['scheme']} the whole model diverges by"
        f" {1000 * found['divergence']:.1f}, with only the image tower quantized by {1000 * towers['image']:.1f}, with"
        f" only the text tower by {1000 * towers['text']:.1f}; the layers one by one sum to {1000 * total:.1f}.",
        "",
        "| kind of layer | weights | alone, summed | recovery, summed |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| {kind} | {row['weights']:,} | {1000 * row['alone']:.2f} | {1000 * row['recovery']:.2f} |"
            for kind, row in found["by_kind"].items()
        ),
        "",
        "The 15 costliest layers, alone at each number of bits:",
        "",
        f"| layer | weights | scheme | {' | '.join(f'W{bits}' for bits in CHOICES)} | recovery |",
        "| --- | ---: | --- |" + " ---: |" * (len(CHOICES) + 1),
        *(layer_line(row) for row in [row for row in layers if row["weights"]][:15]),
    ]


def layer_line(row: dict[str, Any]) -> str:
    widths = " | ".join(f"{1000 * row['by_width'][str(bits)]:.2f}" for bits in CHOICES)
    return f"| {row['name']} | {row['weights']:,} | {row['scheme']} | {widths} | {1000 * row['recovery']:.2f} |"


def accuracy_lines(rows: list[dict[str, Any]]) -> list[str]:
    sets = {name: result["count"] for name, result in rows[0]["results"].items()}
    titles = " | ".join(f"{name}, {count} images" for name, count in sets.items())
    lines = [
        "Top-1 % and, in brackets, KL from the float model in nats:",
        "",
        f"| reconstruction | weights | bits a weight | {titles} |",
        "| --- | --- | ---: |" + " ---: |" * len(sets),
    ]
    for row in rows:
        cells = []
        for result in row["results"].values():
            near = result["fidelity"]
            cells.append(f"{result['top1']['value']:.2f}" + (f" ({near['kl']:.4f})" if near else ""))
        lines.append(f"| {row['reconstruction']} | {row['label']} | {row['bits']:.3f} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="without ending")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(MODELS), help="models")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.only:
        clip = d4c.load(name if name.startswith("demo") else args.models / f"{name}.safetensors", device=args.device)
        part = measure(clip, args)
        record = args.out.with_suffix(".json")
        report = json.loads(record.read_text()) if record.exists() else {}
        # Through JSON, so that the table of a new part and of an old one are made from the same form.
        report = {key: value for key in MODELS if (value := json.loads(json.dumps({**report, name: part})).get(key))}
        with atomic_file(record) as new:
            new.write_text(json.dumps(report, indent=1) + "\n")
        with atomic_file(args.out.with_suffix(".md")) as new:
            new.write_text(table(report))


if __name__ == "__main__":
    main()
