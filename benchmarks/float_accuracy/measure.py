"""Zero-shot accuracy of the four float models, against what OpenAI's own CLIP code measured on the same files.

    python -m benchmarks.float_accuracy.measure --data DIR --models DIR [--threads 2] [--device cpu]

`--data` holds tiny-imagenet-val.parquet and cifar10-test.parquet, `--models` the safetensors files; the emoji pack
comes with the package. Writes the report and its table (`--out`), and exits with 1 if a figure is more than 0.1 point
from the reference.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import d4c
from benchmarks.common.arguments import add_models_and_data, argument_parser
from benchmarks.common.records import command, setup
from benchmarks.common.rows import Row, write_report
from benchmarks.float_accuracy.table import off, page
from d4c.evaluation.load_dataset import load_dataset

# Float32 on a CPU, all rows of each file, OpenAI's implementation; percent.
REFERENCE = {
    "demo-vit": {"tiny-imagenet-val": 45.02, "cifar10-test": 82.28, "demo": 49.19},
    "demo-rn": {"tiny-imagenet-val": 43.61, "cifar10-test": 82.22, "demo": 61.90},
    "bench-vit": {"tiny-imagenet-val": 49.29, "cifar10-test": 86.47, "demo": 55.04},
    "bench-rn": {"tiny-imagenet-val": 55.49, "cifar10-test": 87.88, "demo": 64.92},
}
TOLERANCE = 0.1


def measure(models: Path, data: Path, device: str) -> list[Row]:
    """One row for each model and dataset."""
    rows = []
    for name, figures in REFERENCE.items():
        model = d4c.load(models / f"{name}.safetensors").to(device)
        for label, reference in figures.items():
            dataset = load_dataset(label if label == "demo" else f"parquet:{data / label}.parquet")
            metrics = d4c.evaluate(model, dataset, batch_size=250)
            rows.append(metrics.to_dict() | {"model": name, "dataset": label, "reference_top1": reference})
            print(f"{name:10} {label:18} {metrics.top1}  reference {reference}  {metrics.seconds:.0f} s", flush=True)
    return rows


def main() -> int:
    parser = argument_parser(__doc__)
    add_models_and_data(parser)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "float_accuracy.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    record = setup(args.device) | {"command": command("float_accuracy.measure")}
    report: Row = {"setup": record, "rows": measure(args.models, args.data, args.device)}
    write_report(args.out, report, page)
    return int(any(off(row) > TOLERANCE for row in report["rows"]))


if __name__ == "__main__":
    sys.exit(main())
