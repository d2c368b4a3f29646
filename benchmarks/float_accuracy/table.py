"""The table from the report that `benchmarks.float_accuracy.measure` wrote.

python -m benchmarks.float_accuracy.table benchmarks/float_accuracy/results/float_accuracy.json
"""

from __future__ import annotations

from benchmarks.common.rows import Row
from benchmarks.common.tables import line, report_command

ALIGNMENT = ["---", "---", "---:", "---:", "---", "---:", "---:", "---:"]


def off(row: Row) -> float:
    """Points between the measured and the reference top-1, both at two decimals as the reference is given."""
    return round(abs(round(row["top1"]["value"], 2) - row["reference_top1"]), 2)


def page(report: Row) -> str:
    setup = report["setup"]
    versions = setup.get("versions", setup)
    lines = [
        "# Float accuracy",
        "",
        f"Zero-shot, percent, 95 % Wilson interval; reference: OpenAI's CLIP code. {setup['date']}, {setup['device']}, "
        f"torch {versions['torch']}, d4c {versions['d4c']}. Made by `{setup['command']}`.",
        "",
        line(["model", "dataset", "images", "top-1", "interval", "reference", "off by", "top-5"]),
        line(ALIGNMENT),
    ]
    for row in report["rows"]:
        top1 = row["top1"]
        figures = [f"{top1['value']:.2f}", f"{top1['low']:.2f} to {top1['high']:.2f}", f"{row['reference_top1']:.2f}"]
        figures += [f"{off(row):.2f}", f"{row['top5']['value']:.2f}"]
        lines.append(line([row["model"], row["dataset"], str(row["count"]), *figures]))
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    report_command(__doc__, page)
