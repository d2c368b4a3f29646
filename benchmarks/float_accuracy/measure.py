"""Zero-shot accuracy of the four float models, against what OpenAI's own CLIP code measured on the same files.

    python benchmarks/float_accuracy.py --data DIR --models DIR [--threads 2] [--device cpu]

`--data` holds tiny-imagenet-val.parquet and cifar10-test.parquet, `--models` the safetensors files; the emoji pack
comes with the package. Writes results/float_accuracy.json and .md beside this script, and exits with 1 if a figure is
more than 0.1 point from the reference.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path

import torch

import d4c
from benchmarks.common.problems import commit
from d4c.evaluation.load_dataset import load_dataset
from d4c.files import atomic_file

# Float32 on a CPU, all rows of each file, OpenAI's implementation; percent.
REFERENCE = {
    "demo-vit": {"tiny-imagenet-val": 45.02, "cifar10-test": 82.28, "demo": 49.19},
    "demo-rn": {"tiny-imagenet-val": 43.61, "cifar10-test": 82.22, "demo": 61.90},
    "bench-vit": {"tiny-imagenet-val": 49.29, "cifar10-test": 86.47, "demo": 55.04},
    "bench-rn": {"tiny-imagenet-val": 55.49, "cifar10-test": 87.88, "demo": 64.92},
}
TOLERANCE = 0.1
RESULTS = Path(__file__).parent / "results"


def measure(models: Path, data: Path, device: str) -> list[dict[str, object]]:
    """One row for each model and dataset."""
    rows: list[dict[str, object]] = []
    for name, figures in REFERENCE.items():
        model = d4c.load(models / f"{name}.safetensors").to(device)
        for label, reference in figures.items():
            dataset = load_dataset(label if label == "demo" else f"parquet:{data / label}.parquet")
            metrics = d4c.evaluate(model, dataset, batch_size=250)
            rows.append(metrics.to_dict() | {"model": name, "dataset": label, "reference_top1": reference})
            print(f"{name:10} {label:18} {metrics.top1}  reference {reference}  {metrics.seconds:.0f} s", flush=True)
    return rows


def off(row: dict) -> float:
    """Points between the measured and the reference top-1, both at two decimals as the reference is given."""
    return round(abs(round(row["top1"]["value"], 2) - row["reference_top1"]), 2)


def table(report: dict) -> str:
    setup = report["setup"]
    lines = [
        "# Float accuracy",
        "",
        f"Zero-shot, percent, 95 % Wilson interval; reference: OpenAI's CLIP code. {setup['date']}, {setup['device']}, "
        f"torch {setup['torch']}, d4c {setup['d4c']}. Made by `{setup['command']}`.",
        "",
        "| model | dataset | images | top-1 | interval | reference | off by | top-5 |",
        "| --- | --- | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for row in report["rows"]:
        one = row["top1"]
        lines.append(
            f"| {row['model']} | {row['dataset']} | {row['count']} | {one['value']:.2f} "
            f"| {one['low']:.2f} to {one['high']:.2f} | {row['reference_top1']:.2f} | {off(row):.2f} "
            f"| {row['top5']['value']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    gpu = args.device.startswith("cuda")
    report = {
        "setup": {
            "command": "python benchmarks/float_accuracy.py --data DIR --models DIR",
            "date": time.strftime("%Y-%m-%d"),
            "device": torch.cuda.get_device_name(args.device) if gpu else f"CPU, {args.threads} threads",
            "d4c": d4c.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "commit": commit(),
        },
        "rows": measure(args.models, args.data, args.device),
    }
    with atomic_file(RESULTS / "float_accuracy.json") as file:
        file.write_text(json.dumps(report, indent=1) + "\n")
    with atomic_file(RESULTS / "float_accuracy.md") as file:
        file.write_text(table(report))
    return int(any(off(row) > TOLERANCE for row in report["rows"]))


if __name__ == "__main__":
    sys.exit(main())
