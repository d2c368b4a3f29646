"""Tables of means over seeds from the rows of comparisons (`benchmarks.common.compared`).

    python -m benchmarks.calibration.table benchmarks/calibration/results/demo.jsonl

Writes a Markdown file beside the rows.
"""

from __future__ import annotations

from benchmarks.common.rows import Row
from benchmarks.common.tables import DATASETS, SCHEMES, over_seeds, table, table_command

TITLES = {
    "ranges": "Image tower, published placement, ranges only",
    "reconstruction": "Image tower, published placement, units and loss, {steps} steps a unit instead of 20,000",
    "demo": "Both towers, deployable track",
}
METHODS = ("noise", "leaves", "d4c", "real")


def accuracy_table(rows: list[Row], data: str) -> list[str]:
    """Top-1 on one dataset: schemes by calibration images."""
    methods = [method for method in METHODS if any(row["method"] == method for row in rows)]
    seeds = sorted({row["seed"] for row in rows})
    float_top1 = rows[0]["results"][data]["float_top1"]
    body = []
    for scheme in SCHEMES:
        values = {
            method: [
                row["results"][data]["top1"]["value"]
                for row in rows
                if row["scheme"] == scheme and row["method"] == method
            ]
            for method in methods
        }
        if any(values.values()):
            body.append([scheme, *(over_seeds(values[method], len(seeds)) for method in methods)])
    names = ", ".join(map(str, seeds))
    title = f"Top-1 % on {DATASETS[data]}, float {float_top1:.2f}; mean (lowest to highest) over seeds {names}:"
    return [title, "", *table(["scheme", *methods], body)]


def table_key(row: Row) -> tuple[str, str, str, int, str]:
    """What the rows of one table have in common."""
    return row["part"], row["model"], row["reconstruction"], row["steps"] or 0, row["preset"]


def page(rows: list[Row]) -> str:
    """A section for each part, model and reconstruction, with a table for each dataset."""
    devices = sorted({f"{r['device']}, torch {r['versions']['torch']}, d4c {r['versions']['d4c']}" for r in rows})
    lines = ["# Calibration images and accuracy", ""]
    lines += [f"Measured on {'; '.join(devices)}.", ""]
    keys = sorted({table_key(row) for row in rows})
    for key in (key for part in TITLES for key in keys if key[0] == part):
        part, model, reconstruction, steps, preset = key
        chosen = [row for row in rows if table_key(row) == key]
        kind = {"none": ", ranges only", "gptq": ", GPTQ"}[reconstruction] if part == "demo" else ""
        lines += [f"## {model}: {TITLES[part].format(steps=steps)}{kind}", ""]
        precisions = sorted({row["synthesis_precision"] for row in chosen if row.get("synthesis_precision")})
        precision = f", in {' and '.join(precisions)}" if precisions else ""
        lines += [f"Calibration images: synthesis preset `{preset}`{precision}.", ""]
        for data in chosen[0]["results"]:
            lines += accuracy_table(chosen, data)
    return "\n".join(lines)


if __name__ == "__main__":
    table_command(__doc__, page)
