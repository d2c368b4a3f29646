"""Tables from the report that `benchmarks.peers.measure` wrote.

python -m benchmarks.peers.table benchmarks/peers/results/peers.json
"""

from __future__ import annotations

from benchmarks.common.rows import Row
from benchmarks.common.tables import DATASETS, conditions, report_command, table


def page(report: Row) -> str:
    """Accuracy of each tool, and its seconds as a share of NNCF's on the same images."""
    setup, rows = report["setup"], report["rows"]
    lines = [
        "# Int8 of peers beside d4c's W8A8",
        "",
        f"Both towers; `benchmarks/peers/measure.py` says how. {conditions(setup)}, {setup['date']}.",
        "",
        "`time / NNCF`: processor seconds to quantize both towers as a share of NNCF's on the same images. torchao "
        "measures activations in every run and leaves convolutions, which are most of a ResNet, in float.",
        "",
    ]
    for group in dict.fromkeys((row["model"], row["rows"]) for row in rows):
        lines += _model_table([row for row in rows if (row["model"], row["rows"]) == group])
    return "\n".join(lines)


def _model_table(rows: list[Row]) -> list[str]:
    """The tools on one model and number of pictures."""
    data = list(rows[0]["results"])
    float_top1 = ", ".join(f"{DATASETS[name]} {rows[0]['results'][name]['float_top1']:.2f}" for name in data)
    counts = " and ".join(f"{rows[0]['results'][name]['count']:,}" for name in data)
    columns = [title for name in data for title in (f"{DATASETS[name]}: top-1 %", "same class as float %")]
    body = []
    for row in rows:
        figures = [f"{value:.2f}" for name in data for value in _accuracies(row["results"][name])]
        close = row["results"][data[0]]["fidelity"]
        cosines = [f"{close['cosine']:.4f}", f"{close['text_cosine']:.4f}"]
        body.append([row["candidate"], row["method"], *figures, *cosines, _share_of_nncf(row, rows)])
    names = ["tool", "calibration images", *columns, "image cosine", "text cosine", "time / NNCF"]
    return [f"## {rows[0]['model']}: float {float_top1} ({counts} images)", "", *table(names, body)]


def _accuracies(result: Row) -> tuple[float, float]:
    return result["top1"]["value"], result["fidelity"]["same_class"]["value"]


def _share_of_nncf(row: Row, rows: list[Row]) -> str:
    for other in rows:
        if other["candidate"] == "NNCF int8" and other["method"] == row["method"]:
            return f"{row['quantize']['cpu_seconds'] / other['quantize']['cpu_seconds']:.2f}"
    return ""


if __name__ == "__main__":
    report_command(__doc__, page)
