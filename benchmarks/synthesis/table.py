"""The table from a report that `benchmarks.synthesis.measure` wrote.

python -m benchmarks.synthesis.table benchmarks/synthesis/results/h200.json
"""

from __future__ import annotations

from benchmarks.common.rows import Row
from benchmarks.common.tables import report_command, table
from d4c.synthesis.config import PRESETS

PUBLISHED = PRESETS["paper"]
FIGURES = ("s / iteration", "s / 3,000", "GiB")


def speed_table(rows: list[Row]) -> list[str]:
    """Seconds of an iteration, of the published 3,000 with set-up, and memory; ours and the authors'."""
    body = []
    for row in rows:
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
        share = f"{100 * row['floor_share']:.0f} %" if "floor_share" in row else ""
        body.append([row["model"], *_cells(row["ours"]), *_cells(row["reference"]), ratio, share])
    names = [f"{who}: {figure}" for who in ("ours", "reference") for figure in FIGURES]
    return table(["model", *names, "times faster", "share of floor"], body)


def _cells(figures: Row | None) -> list[str]:
    if figures is None:
        return ["", "", ""]
    memory = figures["memory_gib"]
    spread = f"{figures['seconds']:.4g} ({figures['lowest']:.4g} to {figures['highest']:.4g})"
    whole = max(0, figures["setup"]) + PUBLISHED.iterations * figures["seconds"]
    return [spread, f"{whole:,.0f}", "" if memory is None else f"{memory:.1f}"]


def page(report: Row) -> str:
    """The table of a run, or of each of several by their names."""
    lines = ["# Seconds of the published synthesis", ""]
    lines += [
        "Measured by `benchmarks/synthesis/measure.py`. The authors' code computes in float32. `share of floor`: what"
    ]
    lines += ["the products of the image tower alone would take, as a share of the time.", ""]
    for name, run in ({"": report} if "setup" in report else report).items():
        lines += [f"## {name.capitalize()}", ""] if name else []
        lines += [_conditions(run["setup"]), "", *speed_table(run["rows"])]
    return "\n".join(lines)


def _conditions(setup: Row) -> str:
    versions = f"torch {setup['versions']['torch']}, d4c {setup['versions']['d4c']}"
    batch = f", {setup['batch']} at once" if setup.get("batch") else ""
    sizes = f"{setup['images']} images{batch}, {setup['precision']}, processes: {setup.get('processes', 1)}"
    return f"{setup['date']}, {setup['device']}, {versions}; {sizes}."


if __name__ == "__main__":
    report_command(__doc__, page)
