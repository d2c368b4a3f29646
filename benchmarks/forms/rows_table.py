"""The table of the rows that `benchmarks.forms.rows` wrote.

    python -m benchmarks.forms.rows_table benchmarks/forms/results/rows.jsonl

Writes a Markdown file beside the rows.
"""

from __future__ import annotations

import itertools

from benchmarks.common.rows import Row
from benchmarks.common.tables import conditions, over_seeds, table, table_command
from benchmarks.forms.rows import MODELS, SCHEMES, VARIANTS


def page(rows: list[Row]) -> str:
    """Top-1 and the distance to float of each way to round the inputs of linear layers."""
    seeds, data = len({row["seed"] for row in rows}), list(rows[0]["results"])
    body = []
    for model, scheme, variant in itertools.product(MODELS, SCHEMES, VARIANTS):
        key = {"model": model, "scheme": scheme, "variant": variant}
        chosen = [row["results"] for row in rows if key.items() <= row.items()]
        if chosen:
            top1 = [over_seeds([result[name]["top1"]["image"] for result in chosen], seeds) for name in data]
            errors = [over_seeds([1000 * (1 - r[name]["image_cosine"]) for r in chosen], seeds) for name in data]
            body.append([model, scheme, variant, " / ".join(top1), " / ".join(errors)])
    count = f"{rows[0]['rows']:,}" if rows[0]["rows"] else "10,000"
    where = "; ".join(sorted({conditions(row["setup"]) for row in rows}))
    heads = ["model", "scheme", "inputs", "top-1 %", "1 - cosine, thousandths"]
    return "\n".join(
        [
            "# A range for each row of an activation",
            "",
            "Ranges only, image tower alone, dead leaves; Tiny ImageNet / CIFAR-10, "
            f"{count} images each. `rows`: each row of the input of a linear layer is rounded in the range of its own "
            "least error, found while the model runs; `class token exact`: that row stays in float. Hidden layers are "
            f"the inputs of `mlp.fc2`. Measured by `benchmarks/forms/rows.py` on {where}; seeds: {seeds}.",
            "",
            *table(heads, body, texts=3),
        ]
    )


if __name__ == "__main__":
    table_command(__doc__, page)
