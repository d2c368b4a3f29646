"""Tables of means over seeds from what `calibration.py` measured.

python benchmarks/calibration_table.py results/calibration_demo.jsonl > results/calibration_demo.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

SHORT = {"tiny-imagenet-val": "tiny-imagenet-val", "cifar10-test": "cifar10-test", "demo": "emoji pack"}
TITLES = {
    "ranges": "Image tower, published placement, ranges only",
    "reconstruction": "Image tower, published placement, units and loss, {steps} steps a unit instead of 20,000",
    "demo": "Both towers, deployable track",
}
METHODS = ("noise", "leaves", "d4c", "real")
SCHEMES = ("W8A8", "W4A8", "W6A6", "W4A4")


def cell(values: list[float], seeds: int) -> str:
    """Mean and range over seeds, and how many there are where some are missing."""
    if not values:
        return ""
    short = "" if len(values) == seeds else f"{len(values)} of {seeds} seeds"
    if len(values) == 1:
        return f"{values[0]:.2f}" + (f" ({short})" if short else "")
    short = f"; {short}" if short else ""
    return f"{mean(values):.2f} ({min(values):.1f} to {max(values):.1f}{short})"


def table(rows: list[dict[str, Any]], data: str) -> list[str]:
    methods = [m for m in METHODS if any(r["method"] == m for r in rows)]
    reference = rows[0]["results"][data]["float_top1"]
    seeds = sorted({r["seed"] for r in rows})
    names = ", ".join(map(str, seeds))
    lines = [
        f"Top-1 % on {SHORT[data]}, float {reference:.2f}; mean (lowest to highest) over seeds {names}:",
        "",
        "| scheme | " + " | ".join(methods) + " |",
        "| --- |" + " --- |" * len(methods),
    ]
    for scheme in SCHEMES:
        found = {
            m: [r["results"][data]["top1"]["value"] for r in rows if r["scheme"] == scheme and r["method"] == m]
            for m in methods
        }
        if any(found.values()):
            lines.append(f"| {scheme} | " + " | ".join(cell(found[m], len(seeds)) for m in methods) + " |")
    return [*lines, ""]


def key(row: dict[str, Any]) -> tuple[str, str, str, int, str]:
    """What the rows of one table have in common."""
    return row["part"], row["model"], row["reconstruction"], row["steps"], row["preset"]


def main() -> None:
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    devices = sorted({f"{r['device']}, torch {r['versions']['torch']}, d4c {r['versions']['d4c']}" for r in rows})
    print("# Calibration images and accuracy\n")
    print(f"Measured on {'; '.join(devices)}, by `benchmarks/calibration.py`.\n")
    groups = sorted({key(r) for r in rows})
    for part in TITLES:
        for _, model, kind, steps, preset in (g for g in groups if g[0] == part):
            chosen = [r for r in rows if key(r) == (part, model, kind, steps, preset)]
            extra = {"none": ", ranges only", "gptq": ", GPTQ"}[kind] if part == "demo" else ""
            print(f"## {model}: {TITLES[part].format(steps=steps)}{extra}\n")
            precisions = sorted({r["synthesis_precision"] for r in chosen if r.get("synthesis_precision")})
            extra = f", in {' and '.join(precisions)}" if precisions else ""
            print(f"Calibration images: synthesis preset `{preset}`{extra}.\n")
            for data in chosen[0]["results"]:
                print("\n".join(table(chosen, data)))


if __name__ == "__main__":
    main()
