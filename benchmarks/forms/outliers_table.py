"""The tables of the rows that `benchmarks.forms.outliers` wrote.

    python -m benchmarks.forms.outliers_table benchmarks/forms/results/outliers.jsonl

Writes a Markdown file beside the rows.
"""

from __future__ import annotations

import itertools

from benchmarks.common.rows import Row
from benchmarks.common.tables import spread, table, table_command
from benchmarks.forms.outliers import MODELS, SCHEMES, VARIANTS
from benchmarks.forms.rows_table import pictures, places, seeds, variants_table

TITLES = {"none": "Ranges only", "gptq": "GPTQ"}


def page(rows: list[Row]) -> str:
    """Top-1 and the distance to float of each remedy, and the columns that it adds."""
    parts = [
        "# Registers and split channels",
        "",
        f"Image tower alone, dead leaves; Tiny ImageNet / CIFAR-10, {pictures(rows)} images each. `loud channels` is "
        "what d4c does. `copies` are of the loudest input channels of the blocks' linear layers that have no loud "
        "channels: a share of their channels, or as many as there would be loud ones; `after norms`: of the inputs of "
        "`attn.q` and `mlp.fc1` alone. `register`: key and value of one outlier token, cached, from the block on in "
        "which such tokens arise; `4 patches deleted`: those that fire hardest in that block. Scheme `float`: what "
        f"this does to the float model, which has {floats(rows)} as it is. "
        f"Measured by `benchmarks/forms/outliers.py` on {places(rows)}; "
        f"seeds: {seeds(rows)}.",
        "",
    ]
    for kind, title in TITLES.items():
        if chosen := [row for row in rows if row["reconstruction"] == kind]:
            keys = itertools.product(MODELS, SCHEMES, VARIANTS)
            parts += [f"## {title}", "", *variants_table(chosen, "remedy", keys)]
    return "\n".join([*parts, "## Columns that a remedy adds", "", *columns_table(rows)])


def floats(rows: list[Row]) -> str:
    """Top-1 of each model before it is changed."""
    known = {}
    for row in rows:
        if all("float_top1" in result for result in row["results"].values()):  # the first rows were taken without
            known[row["model"]] = [result["float_top1"] for result in row["results"].values()]
    return " and ".join(f"{' / '.join(f'{top1:.1f}' for top1 in known[name])} ({name})" for name in sorted(known))


def columns_table(rows: list[Row]) -> list[str]:
    """How many columns the layers of a tower get beside their own, over all schemes and seeds."""
    body = []
    for model, variant in itertools.product(MODELS, VARIANTS):
        columns = [r["columns"] for r in rows if (r["model"], r["variant"]) == (model, variant) and r["columns"]]
        if columns:
            totals = [[float(sum(row[kind].values())) for row in columns] for kind in ("loud", "copies")]
            body.append([model, variant, *(spread(values, 0) for values in totals)])
    return table(["model", "remedy", "loud channels, 8 bits", "copies"], body, texts=2)


if __name__ == "__main__":
    table_command(__doc__, page)
