"""The table of the rows that `benchmarks.forms.learning` wrote.

    python -m benchmarks.forms.learning_table benchmarks/forms/results/learning.jsonl

Writes a Markdown file beside the rows.
"""

from __future__ import annotations

import itertools
from statistics import mean

from benchmarks.common.rows import Row
from benchmarks.common.tables import DATASETS, conditions, table, table_command
from benchmarks.forms.learning import MODELS, SETTINGS


def page(rows: list[Row]) -> str:
    """What learned blocks lose with each of the settings."""
    body = []
    for model, settings in itertools.product(MODELS, SETTINGS):
        chosen = [row for row in rows if (row["model"], row["settings"]) == (model, settings)]
        usual = [row for row in rows if (row["model"], row["settings"]) == (model, "default")]
        if chosen:
            time = _seconds(chosen) / _seconds(usual)
            entries = [_top1(chosen), _lost(chosen), _error(chosen), f"{time:.1f}"]
            body.append([model, settings, f"{len(chosen)}", *entries])
    where = "; ".join(sorted({conditions(row["setup"]) for row in rows}))
    heads = ["model", "settings", "seeds", "top-1 %", "points to float", "1 - cosine, thousandths", "time, ratio"]
    return "\n".join(
        [
            "# Learned blocks at W4A4 with other settings",
            "",
            "Both towers, deployable track, images of d4c, the form as trained; each entry is of Tiny ImageNet / "
            "CIFAR-10, 10,000 images each, mean over seeds, with the lowest and the highest seed. The cosine is that "
            "of image embeddings. Times are of processes that share a GPU. Measured by `benchmarks/forms/learning.py` "
            f"on {where}.",
            "",
            *table(heads, body, texts=2),
        ]
    )


def _top1(rows: list[Row]) -> str:
    return " / ".join(f"{mean(_values(rows, data)):.2f}" for data in DATASETS if data in rows[0]["results"])


def _lost(rows: list[Row]) -> str:
    parts = []
    for data, result in rows[0]["results"].items():
        points = [value - result["float_top1"] for value in _values(rows, data)]
        parts.append(f"{mean(points):+.2f} ({min(points):+.2f} to {max(points):+.2f})")
    return " / ".join(parts)


def _values(rows: list[Row], data: str) -> list[float]:
    return [row["results"][data]["top1"]["both"] for row in rows]


def _error(rows: list[Row]) -> str:
    errors = [mean(1000 * (1 - row["results"][data]["image_cosine"]) for row in rows) for data in rows[0]["results"]]
    return " / ".join(f"{error:.1f}" for error in errors)


def _seconds(rows: list[Row]) -> float:
    return mean(row["quantize"]["seconds"] for row in rows)


if __name__ == "__main__":
    table_command(__doc__, page)
