"""Tables from the rows of `benchmarks.common.compared` and `benchmarks.quantization.measure`.

    python -m benchmarks.quantization.table benchmarks/quantization/results/quantization.jsonl

Writes a Markdown file beside the rows.
"""

from __future__ import annotations

from statistics import mean

from benchmarks.calibration.table import METHODS
from benchmarks.common.rows import Row
from benchmarks.common.tables import (
    DATASETS,
    RECONSTRUCTIONS,
    SCHEMES,
    conditions,
    over_seeds,
    table,
    table_command,
)

GOALS = {"W8A8": 0.2, "W4A8": 0.7, "W6A6": 0.7, "W4A4": 5.0}
"""Points of top-1 that a scheme may lose against float."""


def kind(row: Row) -> str:
    """The reconstruction in words."""
    name = RECONSTRUCTIONS.get(row["reconstruction"])
    return name or f"block, {row['recipe']['iterations']} steps"


def distinct(rows: list[Row]) -> list[str]:
    """The reconstructions of rows, the quickest first."""
    order = ("none", "gptq", "block")
    return list(dict.fromkeys(kind(row) for row in sorted(rows, key=lambda row: order.index(row["reconstruction"]))))


def accuracy_tables(rows: list[Row]) -> list[str]:
    """A section for each model and number of pictures that it was judged on."""
    lines: list[str] = []
    for group in dict.fromkeys((row["model"], row["preset"], row["rows"]) for row in rows):
        chosen = [row for row in rows if (row["model"], row["preset"], row["rows"]) == group]
        model, preset, _ = group
        seeds = sorted({row["seed"] for row in chosen})
        lines += [
            f"## {model}: both towers, deployable track",
            "",
            f"Images of d4c: synthesis preset `{preset}`. Top-1 %: mean (lowest to highest) over seeds "
            f"{', '.join(map(str, seeds))}; **bold** where the mean is as close to float as it should be.",
            "",
        ]
        for data in chosen[0]["results"]:
            lines += _accuracy(chosen, data, len(seeds))
        lines += _costs(chosen)
    return lines


def _accuracy(rows: list[Row], data: str, seeds: int) -> list[str]:
    """One table: scheme and reconstruction by calibration images."""
    result = rows[0]["results"][data]
    methods = [method for method in METHODS if any(row["method"] == method for row in rows)]
    body = []
    for scheme in (scheme for scheme in SCHEMES if any(row["scheme"] == scheme for row in rows)):
        same_scheme = [row for row in rows if row["scheme"] == scheme]
        for name in distinct(same_scheme):
            cells = []
            for method in methods:
                matching = [row for row in same_scheme if row["method"] == method and kind(row) == name]
                values = [row["results"][data]["top1"]["value"] for row in matching]
                good = bool(values) and mean(values) >= result["float_top1"] - GOALS[scheme]
                shown = over_seeds(values, seeds)
                cells.append(f"**{shown}**" if good else shown)
            body.append([f"{scheme}, {name}", f"{GOALS[scheme]}", *cells])
    title = f"{DATASETS[data]}, {result['count']:,} images, float {result['float_top1']:.2f}:"
    return [title, "", *table(["scheme, reconstruction", "may lose", *methods], body)]


def _costs(rows: list[Row]) -> list[str]:
    """Seconds and memory of quantizing, by reconstruction."""
    body = []
    for name in distinct(rows):
        figures = [row["quantize"] for row in rows if kind(row) == name]
        body.append([name, over_seeds([took["seconds"] for took in figures], len(figures)), _memory(figures)])
    processes = ", ".join(map(str, sorted({row["processes"] for row in rows if "processes" in row}))) or "not known"
    names = ["reconstruction", "seconds", "GPU memory, GiB"]
    return [*table(names, body), f"Processes that shared the device: {processes}.", ""]


def _memory(figures: list[Row]) -> str:
    known = [took["memory_gib"] for took in figures if took["memory_gib"] is not None]
    return f"{max(known):.2f}" if known else ""


def time_tables(rows: list[Row]) -> list[str]:
    """Seconds of quantizing models in full size."""
    body = []
    for row in rows:
        seconds = over_seeds([took["seconds"] for took in row["repeats"]], len(row["repeats"]))
        sizes = [f"{row['model']}, {row['scheme']}", str(row["images"]), str(row["prompts"]), kind(row)]
        body.append([*sizes, seconds, f"{row['first']['seconds']:.1f}", _memory(row["repeats"])])
    return [
        "## Seconds for models in full size",
        "",
        "Random weights, both towers; mean (lowest to highest) of repeats after a first call, in which block learns in "
        "ten steps.",
        "",
        *table(["model, scheme", "images", "prompts", "reconstruction", "seconds", "first call", "memory, GiB"], body),
    ]


def page(rows: list[Row]) -> str:
    """Tables of accuracy, then seconds of models in full size."""
    accuracy, times = ([row for row in rows if row["part"] == part] for part in ("accuracy", "time"))
    where = "; ".join(sorted({conditions(row["setup"]) for row in rows}))
    lines = ["# Both towers quantized", "", f"Measured on {where}.", ""]
    return "\n".join([*lines, *accuracy_tables(accuracy), *(time_tables(times) if times else [])])


if __name__ == "__main__":
    table_command(__doc__, page)
