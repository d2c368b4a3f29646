"""The ablation of the synthesis as a table: top-1 by calibration images, mean and range over seeds.

python benchmarks/ablation_table.py results/calibration_bench.jsonl results/ablation.jsonl > results/ablation.md

Reads the lines that `calibration.py` writes and uses what is there: each cell says how many seeds it has, and a cell
that was never measured stays empty. Of lines for one cell and seed the last one counts. Behind each table of
reconstruction stand differences between methods, seed by seed.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

METHODS = ("noise", "pink", "leaves", "bns", "pse", "pgsi", "pgsi+scg", "pgsi+pae", "d4c", "d4c, preset paper", "real")
SCHEMES = ("W6A6", "W4A4")
DATA = {"tiny-imagenet-val": "Tiny ImageNet", "cifar10-test": "CIFAR-10"}

PAIRS = {
    "structural contrast (pgsi+scg less pgsi)": ("pgsi+scg", "pgsi"),
    "perturbation (pgsi+pae less pgsi)": ("pgsi+pae", "pgsi"),
    "both (d4c less pgsi)": ("d4c", "pgsi"),
    "d4c less dead leaves": ("d4c", "leaves"),
    "d4c less noise": ("d4c", "noise"),
    "photographs less d4c": ("real", "d4c"),
}

Cells = dict[tuple[str, str, str], dict[int, float]]
"""Top-1 % by seed, of a method, scheme and dataset."""


def label(row: dict[str, Any]) -> str:
    """The method; settings of the synthesis mean nothing to noise and photographs, and "default" is not named."""
    method = row["method"]
    return method if method in ("noise", "real") or row["preset"] == "default" else f"{method}, preset {row['preset']}"


def cell(values: dict[int, float]) -> str:
    if not values:
        return ""
    found = list(values.values())
    spread = f"<br>{min(found):.2f}&nbsp;to&nbsp;{max(found):.2f}" if len(found) > 1 else ""
    return f"{mean(found):.2f}&nbsp;×{len(found)}{spread}"


def table(cells: Cells) -> list[str]:
    """A row a method, a column a scheme and dataset."""
    columns = [(scheme, data) for scheme in SCHEMES for data in DATA]
    lines = [
        "| images | " + " | ".join(f"{scheme} {DATA[data]}" for scheme, data in columns) + " |",
        "| --- |" + " --- |" * len(columns),
    ]
    for method in METHODS:
        row = [cell(cells[method, *column]) for column in columns]
        if any(row):
            lines.append(f"| {method} | " + " | ".join(row) + " |")
    return [*lines, ""]


def differences(cells: Cells) -> list[str]:
    """Points between two methods on the seeds that both have: mean and standard error."""
    columns = [(scheme, data) for scheme in SCHEMES for data in DATA]
    lines = [
        "| difference in points, ± standard error | "
        + " | ".join(f"{scheme} {DATA[data]}" for scheme, data in columns)
        + " |",
        "| --- |" + " --- |" * len(columns),
    ]
    for name, (a, b) in PAIRS.items():
        row = []
        for column in columns:
            one, other = cells[a, *column], cells[b, *column]
            found = [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
            row.append(
                f"{mean(found):+.2f}&nbsp;±&nbsp;{stdev(found) / len(found) ** 0.5:.2f}" if len(found) > 1 else ""
            )
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    return [*lines, ""]


def main() -> None:
    rows = [json.loads(line) for path in sys.argv[1:] for line in Path(path).read_text().splitlines()]
    groups: dict[tuple[str, str, int], Cells] = defaultdict(lambda: defaultdict(dict))
    floats: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        method, model, scheme = label(row), row["model"], row["scheme"]
        if scheme not in SCHEMES or method not in METHODS:
            continue
        cells = groups[model, row["reconstruction"], 0 if row["reconstruction"] == "none" else row["steps"]]
        for data in DATA:
            result = row["results"][data]
            cells[method, scheme, data][row["seed"]] = result["top1"]["value"]
            floats[model][data] = result["float_top1"]
    devices = sorted({f"{row['device']}, torch {row['versions']['torch']}" for row in rows})
    print(f"Measured on {'; '.join(devices)}. Top-1 %: mean ×number of seeds, and lowest to highest.\n")
    for model, kind, steps in sorted(groups, key=lambda group: (group[0] != "bench-vit", *group)):
        how = "ranges only" if kind == "none" else f"reconstruction, {steps} steps a unit"
        plain = ", ".join(f"{value:.2f} on {DATA[data]}" for data, value in floats[model].items())
        print(f"**{model}, {how}**; float {plain}:\n")
        print("\n".join(table(groups[model, kind, steps])))
        if kind != "none":
            print("\n".join(differences(groups[model, kind, steps])))


if __name__ == "__main__":
    main()
