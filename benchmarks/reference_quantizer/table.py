"""Tables from the rows that `benchmarks.reference_quantizer.measure` wrote.

    python -m benchmarks.reference_quantizer.table benchmarks/reference_quantizer/results/reference_quantizer.jsonl

Writes a Markdown file beside the rows, which docs/quantization.md takes in.
"""

from __future__ import annotations

from benchmarks.common.rows import Row
from benchmarks.common.tables import SCHEMES, table, table_command

OTHERS = ("d4c, GPTQ", "d4c, block", "d4c, published track")


def accuracies(row: Row | None) -> str:
    return "" if row is None else " / ".join(f"{value:.2f}" for value in row["top1"].values())


def find(rows: list[Row], code: str, scheme: str) -> Row | None:
    return next((row for row in rows if (row["code"], row["scheme"]) == (code, scheme)), None)


def accuracy_table(rows: list[Row]) -> list[str]:
    """Top-1 of each code, by model and scheme."""
    names = ["model, scheme", "their iterations", "authors", *OTHERS, "better of GPTQ and block, less authors"]
    body = []
    for model in dict.fromkeys(row["model"] for row in rows):
        same_model = [row for row in rows if row["model"] == model]
        for scheme in SCHEMES:
            theirs = find(same_model, "reference", scheme)
            if theirs is None:
                continue
            others = [find(same_model, code, scheme) for code in OTHERS]
            best = max((row for row in others[:2] if row), key=lambda row: sum(row["top1"].values()))
            gains = [best["top1"][data] - value for data, value in theirs["top1"].items()]
            gain = " / ".join(f"{value:+.2f}" for value in gains)
            cells = [f"{theirs['iterations']:,}", accuracies(theirs), *map(accuracies, others), gain]
            body.append([f"{model}, {scheme}", *cells])
    return table(names, body)


def time_table(rows: list[Row]) -> list[str]:
    """Seconds of each code alone on the device."""
    body = []
    for theirs in (row for row in rows if row["code"] == "reference"):
        same_model = [row for row in rows if row["model"] == theirs["model"]]
        seconds = [row["seconds"] for code in OTHERS[:2] if (row := find(same_model, code, theirs["scheme"]))]
        ratios = " and ".join(f"{theirs['seconds_published'] / value:,.0f}" for value in seconds)
        cells = [f"{theirs['seconds_published']:,.0f}", *(f"{value:.1f}" for value in seconds), ratios]
        body.append([f"{theirs['model']}, {theirs['scheme']}", *cells])
    return table(["model, scheme", "authors, 20,000 iterations (extrapolated)", *OTHERS[:2], "times faster"], body)


def page(rows: list[Row]) -> str:
    """Accuracies on all pictures, then seconds of the rows that had the device alone."""
    devices = ", ".join(sorted({f"{row['device']}, torch {row['torch']}" for row in rows}))
    return "\n".join(
        [
            f"Measured on {devices}. Top-1 %, Tiny ImageNet / CIFAR-10:",
            "",
            *accuracy_table([row for row in rows if row["limit"] is None]),
            "Seconds alone on the device. Those of the authors' code come from 20 iterations a unit: what it takes to",
            "collect activations stays, the rest counts a thousand times.",
            "",
            *time_table([row for row in rows if row["limit"] is not None]),
        ]
    )


if __name__ == "__main__":
    table_command(__doc__, page)
