"""The Markdown of what `reference_quantizer.py` measured.

python benchmarks/reference_quantizer_table.py out/reference_quantizer.jsonl > benchmarks/results/reference_quantizer.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.calibration.table import SCHEMES
from benchmarks.quantization.table import head, line

Row = dict[str, Any]
OTHERS = ("d4c, GPTQ", "d4c, block", "d4c, published track")


def accuracies(row: Row | None) -> str:
    return "" if row is None else " / ".join(f"{value:.2f}" for value in row["top1"].values())


def find(rows: list[Row], code: str, scheme: str) -> Row | None:
    return next((row for row in rows if (row["code"], row["scheme"]) == (code, scheme)), None)


def accuracy_table(rows: list[Row]) -> list[str]:
    """Top-1 of each code, by model and scheme."""
    names = ["model, scheme", "their iterations", "authors", *OTHERS, "better of GPTQ and block, less authors"]
    out = head(names)
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        for scheme in SCHEMES:
            theirs = find(own, "reference", scheme)
            if theirs is None:
                continue
            others = [find(own, code, scheme) for code in OTHERS]
            best = max((row for row in others[:2] if row), key=lambda row: sum(row["top1"].values()))
            gains = [best["top1"][data] - value for data, value in theirs["top1"].items()]
            gain = " / ".join(f"{value:+.2f}" for value in gains)
            cells = [f"{theirs['iterations']:,}", accuracies(theirs), *map(accuracies, others), gain]
            out.append(line([f"{model}, {scheme}", *cells]))
    return out


def time_table(rows: list[Row]) -> list[str]:
    """Seconds of each code alone on the device."""
    out = head(["model, scheme", "authors, 20,000 iterations (extrapolated)", *OTHERS[:2], "times faster"])
    for theirs in (row for row in rows if row["code"] == "reference"):
        own = [row for row in rows if row["model"] == theirs["model"]]
        seconds = [row["seconds"] for code in OTHERS[:2] if (row := find(own, code, theirs["scheme"]))]
        ratios = " and ".join(f"{theirs['seconds_published'] / value:,.0f}" for value in seconds)
        cells = [f"{theirs['seconds_published']:,.0f}", *(f"{value:.1f}" for value in seconds), ratios]
        out.append(line([f"{theirs['model']}, {theirs['scheme']}", *cells]))
    return out


def main() -> None:
    rows: list[Row] = [json.loads(text) for text in Path(sys.argv[1]).read_text().splitlines()]
    devices = ", ".join(sorted({f"{row['device']}, torch {row['torch']}" for row in rows}))
    print(f"Measured on {devices}. Top-1 %, Tiny ImageNet / CIFAR-10:\n")
    print("\n".join(accuracy_table([row for row in rows if row["limit"] is None])))
    print("\nSeconds alone on the device. Those of the authors' code come from 20 iterations a unit: what it takes to")
    print("collect activations stays, the rest counts a thousand times.\n")
    print("\n".join(time_table([row for row in rows if row["limit"] is not None])))


if __name__ == "__main__":
    main()
