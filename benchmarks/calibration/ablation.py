"""The ablation of the synthesis as a table: top-1 by calibration images, mean and range over seeds.

    R=benchmarks/calibration/results
    python -m benchmarks.calibration.ablation $R/bench.jsonl $R/ablation.jsonl --out $R/ablation.md

Reads rows of comparisons (`benchmarks.common.compared`) and uses what is there: each cell says how many seeds it
has, and a cell that was never measured stays empty. Of several lines for one cell and seed the last one counts. Each
table of reconstruction is followed by the differences between methods, seed by seed.
"""

from __future__ import annotations

from collections import defaultdict
from statistics import mean, stdev

from benchmarks.common.rows import Row
from benchmarks.common.tables import table, table_command

METHODS = ("noise", "pink", "leaves", "bns", "pse", "pgsi", "pgsi+scg", "pgsi+pae", "d4c", "d4c, preset paper", "real")
SCHEMES = ("W6A6", "W4A4")
DATA = {"tiny-imagenet-val": "Tiny ImageNet", "cifar10-test": "CIFAR-10"}
COLUMNS = [(scheme, data) for scheme in SCHEMES for data in DATA]
TITLES = [f"{scheme} {DATA[data]}" for scheme, data in COLUMNS]
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


def label(row: Row) -> str:
    """The method; settings of the synthesis mean nothing to noise and photographs, and "default" is not named."""
    method: str = row["method"]
    return method if method in ("noise", "real") or row["preset"] == "default" else f"{method}, preset {row['preset']}"


def mean_cell(by_seed: dict[int, float]) -> str:
    if not by_seed:
        return ""
    values = list(by_seed.values())
    spread = f"<br>{min(values):.2f}&nbsp;to&nbsp;{max(values):.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}&nbsp;×{len(values)}{spread}"


def method_table(cells: Cells) -> list[str]:
    """A row for each method, a column for each scheme and dataset."""
    body = [[method, *(mean_cell(cells[method, *column]) for column in COLUMNS)] for method in METHODS]
    return table(["images", *TITLES], [row for row in body if any(row[1:])])


def difference_cell(one: dict[int, float], other: dict[int, float]) -> str:
    """Mean and standard error of the difference on the seeds that both have."""
    changes = [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
    if len(changes) < 2:
        return ""
    return f"{mean(changes):+.2f}&nbsp;±&nbsp;{stdev(changes) / len(changes) ** 0.5:.2f}"


def difference_table(cells: Cells) -> list[str]:
    """Points between two methods, seed by seed."""
    body = [
        [name, *(difference_cell(cells[one, *column], cells[other, *column]) for column in COLUMNS)]
        for name, (one, other) in PAIRS.items()
    ]
    return table(["difference in points, ± standard error", *TITLES], body)


def page(rows: list[Row]) -> str:
    """The tables of each model and reconstruction, without a heading, for a page to take in."""
    groups: dict[tuple[str, str, int], Cells] = defaultdict(lambda: defaultdict(dict))
    float_top1: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        method, model, scheme = label(row), row["model"], row["scheme"]
        if scheme not in SCHEMES or method not in METHODS:
            continue
        cells = groups[model, row["reconstruction"], 0 if row["reconstruction"] == "none" else row["steps"]]
        for data in DATA:
            result = row["results"][data]
            cells[method, scheme, data][row["seed"]] = result["top1"]["value"]
            float_top1[model][data] = result["float_top1"]
    devices = sorted({f"{row['device']}, torch {row['versions']['torch']}" for row in rows})
    lines = [f"Measured on {'; '.join(devices)}. Top-1 %: mean ×number of seeds, and lowest to highest.", ""]
    for model, kind, steps in sorted(groups, key=lambda group: (group[0] != "bench-vit", *group)):
        how = "ranges only" if kind == "none" else f"reconstruction, {steps} steps a unit"
        plain = ", ".join(f"{value:.2f} on {DATA[data]}" for data, value in float_top1[model].items())
        lines += [f"**{model}, {how}**; float {plain}:", "", *method_table(groups[model, kind, steps])]
        if kind != "none":
            lines += difference_table(groups[model, kind, steps])
    return "\n".join(lines)


if __name__ == "__main__":
    table_command(__doc__, page)
