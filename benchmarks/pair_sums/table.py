"""The table from the rows that `benchmarks.pair_sums.measure` wrote.

python -m benchmarks.pair_sums.table benchmarks/pair_sums/results/pair_sums.jsonl
"""

from __future__ import annotations

from statistics import mean

from benchmarks.common.problems import datasets
from benchmarks.common.rows import Row
from benchmarks.common.tables import DATASETS, RECONSTRUCTIONS, SCHEMES, conditions, table, table_command

RANGES = {"full": "full range", "pairs": "pairs that fit", "seven": "7 bits"}
"""Names of the ranges; the first one is what the others are compared with."""


def comparison(rows: list[Row]) -> list[str]:
    """Means over the seeds that all ranges have, and the mean, lowest and highest difference seed by seed."""
    body = []
    kinds = {(r["scheme"], r["reconstruction"], r["model"]) for r in rows}
    for scheme, reconstruction, model in sorted(kinds, key=_place):
        names = {"model": model, "scheme": scheme, "reconstruction": reconstruction}
        every = [row for row in rows if names.items() <= row.items()]
        seeds = set.intersection(*({row["seed"] for row in every if row["range"] == name} for name in RANGES))
        chosen = [row for row in every if row["seed"] in seeds]
        for data in datasets(model):
            float_top1 = f"{chosen[0]['results'][data]['float_top1']:.2f}"
            what = [model, DATASETS[data], scheme, RECONSTRUCTIONS.get(reconstruction, reconstruction)]
            body.append([*what, f"{len(seeds)}", float_top1, *accuracies(chosen, data), *distances(chosen, data)])
    full, *others = RANGES.values()
    columns = ["seeds", "float", full, *others, *(f"1 - cosine, thousandths: {name}" for name in RANGES.values())]
    return table(["model", "test set", "scheme", "weights", *columns], body, texts=4)


def _place(kind: tuple[str, str, str]) -> tuple[int, bool, str]:
    scheme, reconstruction, model = kind
    return SCHEMES.index(scheme), reconstruction == "block", model


def accuracies(rows: list[Row], data: str) -> list[str]:
    """Top-1 over the full range, and of the other ranges what it differs by."""
    top1 = {
        name: {row["seed"]: row["results"][data]["top1"]["value"] for row in rows if row["range"] == name}
        for name in RANGES
    }
    full = top1.pop("full")
    texts = [f"{mean(full.values()):.2f}" if full else ""]
    for other in top1.values():
        changes = [other[seed] - full[seed] for seed in sorted(full.keys() & other.keys())]
        texts.append(f"{mean(changes):+.2f} ({min(changes):+.2f} to {max(changes):+.2f})" if changes else "")
    return texts


def distances(rows: list[Row], data: str) -> list[str]:
    """1 - cosine to the float image embeddings, for each range."""
    cosines = [[row["results"][data]["fidelity"]["cosine"] for row in rows if row["range"] == name] for name in RANGES]
    return [f"{1e3 * (1 - mean(values)):.2f}" if values else "" for values in cosines]


def page(rows: list[Row]) -> str:
    counts = {data: result["count"] for row in rows for data, result in row["results"].items()}
    pictures = ", ".join(f"{count:,} of {DATASETS[data]}" for data, count in counts.items())
    setups = sorted({conditions(row["setup"]) for row in rows})
    commits = sorted({str(row["setup"]["commit"]) for row in rows})
    return "\n".join(
        [
            "# Pairs of products in 16 bits",
            "",
            f"Top-1 in percent, both towers, seeds {', '.join(map(str, sorted({row['seed'] for row in rows})))}. Full "
            "range: 8-bit weights are -128 to 127, which is exact only with VNNI. Pairs that fit, the default: a row "
            "has a larger scale where two products would leave 16 bits. 7 bits: all 8-bit weights are -64 to 63. At "
            "W4A8 this is about the layers that keep 8 bits. Differences from the full range, seed by seed: mean, "
            f"lowest and highest. Pictures: {pictures}. {'; '.join(setups)}; commit {', '.join(commits)}, "
            f"`{rows[0]['setup']['command']}`.",
            "",
            *comparison(rows),
        ]
    )


if __name__ == "__main__":
    table_command(__doc__, page)
