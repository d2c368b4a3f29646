"""The table from the report that `benchmarks.safe_int8.measure` wrote.

python -m benchmarks.safe_int8.table benchmarks/safe_int8/results/safe_int8.json
"""

from __future__ import annotations

from statistics import mean

from benchmarks.common.problems import datasets
from benchmarks.common.rows import Row
from benchmarks.common.tables import DATASETS, RECONSTRUCTIONS, report_command, table

RANGES = {False: "-128 to 127", True: "-63 to 63"}


def comparison(rows: list[Row]) -> list[str]:
    """Means over seeds, and the mean of the differences seed by seed with the lowest and the highest."""
    body = []
    for model, reconstruction in dict.fromkeys((row["model"], row["reconstruction"]) for row in rows):
        chosen = [row for row in rows if (row["model"], row["reconstruction"]) == (model, reconstruction)]
        for data in datasets(model):
            top1 = {
                safe: {row["seed"]: row["results"][data]["top1"]["value"] for row in chosen if row["safe"] == safe}
                for safe in RANGES
            }
            if both := sorted(top1[False].keys() & top1[True].keys()):
                changes = [top1[True][seed] - top1[False][seed] for seed in both]
                means = [f"{mean(top1[safe][seed] for seed in both):.2f}" for safe in RANGES]
                change = f"{mean(changes):+.2f} ({min(changes):+.2f} to {max(changes):+.2f})"
                float_top1 = f"{chosen[0]['results'][data]['float_top1']:.2f}"
                names = [model, DATASETS.get(data, data), RECONSTRUCTIONS[reconstruction]]
                body.append([*names, float_top1, *means, change, *distances(chosen, data)])
    ranges = list(RANGES.values())
    columns = ["float", *ranges, "difference", *(f"1 - cosine, thousandths: {name}" for name in ranges)]
    return table(["model", "test set", "weights", *columns], body, texts=3)


def distances(rows: list[Row], data: str) -> list[str]:
    """1 - cosine to the float image embeddings, for each range."""
    cosines = [
        mean(row["results"][data]["fidelity"]["cosine"] for row in rows if row["safe"] == safe) for safe in RANGES
    ]
    return [f"{1e3 * (1 - cosine):.2f}" for cosine in cosines]


def page(report: Row) -> str:
    setup = report["setup"]
    seeds = sorted({row["seed"] for row in report["rows"]})
    counts = {data: result["count"] for row in report["rows"] for data, result in row["results"].items()}
    pictures = ", ".join(f"{count:,} of {DATASETS.get(data, data)}" for data, count in counts.items())
    return "\n".join(
        [
            "# 8-bit weights in seven bits",
            "",
            f"Top-1 in percent, both towers at W8A8, calibrated on dead leaves; seeds {seeds}.",
            f"Differences seed by seed: mean, lowest and highest. Pictures: {pictures}. {setup['device']}, "
            f"torch {setup['versions']['torch']}, commit {setup['commit']}, `{setup['command']}`.",
            "",
            *comparison(report["rows"]),
        ]
    )


if __name__ == "__main__":
    report_command(__doc__, page)
