"""The table from the report that `benchmarks.gpu_runtime.measure` wrote.

python -m benchmarks.gpu_runtime.table benchmarks/gpu_runtime/results/gpu_runtime.json
"""

from __future__ import annotations

from benchmarks.common.rows import Row
from benchmarks.common.tables import report_command, table


def page(report: Row) -> str:
    """Throughput and size of each candidate, by run and model."""
    lines = ["# Image towers on a GPU beside bf16", ""]
    lines += ["Measured by `benchmarks/gpu_runtime/measure.py` with random weights; medians over rounds.", ""]
    for run in report["runs"]:
        for model in run["models"]:
            lines += model_table(run["setup"], model)
    return "\n".join(lines)


def model_table(setup: Row, model: Row) -> list[str]:
    body = [
        [
            row["candidate"],
            f"{row['images_a_second']:,.0f}",
            f"{row['times_bf16']:.2f}",
            "" if row["bytes"] is None else f"{row['bytes'] / 1e6:.1f}",
        ]
        for row in model["rows"]
    ]
    where = f"{setup['date']}, {setup['device']}, torch {setup['versions']['torch']}, {setup['rounds']} rounds."
    heading = [f"## {model['model']}, batches of {model['batch']}", "", where, ""]
    return [*heading, *table(["candidate", "images a second", "times bf16", "MB"], body)]


if __name__ == "__main__":
    report_command(__doc__, page)
