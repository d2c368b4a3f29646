"""The table of the rows that `benchmarks.forms.rows` wrote.

    python -m benchmarks.forms.rows_table benchmarks/forms/results/rows.jsonl

Writes a Markdown file beside the rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from benchmarks.common.rows import Row
from benchmarks.common.tables import conditions, over_seeds, table, table_command
from benchmarks.forms.rows import MODELS, SCHEMES, VARIANTS


def page(rows: list[Row]) -> str:
    """Top-1 and the distance to float of each way to round the inputs of linear layers."""
    return "\n".join(
        [
            "# A range for each row of an activation",
            "",
            "Ranges only, image tower alone, dead leaves; Tiny ImageNet / CIFAR-10, "
            f"{pictures(rows)} images each. `rows`: each row of the input of a linear layer is rounded in the range of "
            "its own least error, found while the model runs; `class token exact`: that row stays in float. Hidden "
            f"layers are the inputs of `mlp.fc2`. Measured by `benchmarks/forms/rows.py` on {places(rows)}; "
            f"seeds: {seeds(rows)}.",
            "",
            *variants_table(rows, "inputs", itertools.product(MODELS, SCHEMES, VARIANTS)),
        ]
    )


def variants_table(rows: list[Row], head: str, keys: Iterable[tuple[str, str, str]]) -> list[str]:
    """The lines of a table of image towers, for each model, scheme and variant that was measured."""
    count, data = seeds(rows), list(rows[0]["results"])
    body = []
    for model, scheme, variant in keys:
        key = {"model": model, "scheme": scheme, "variant": variant}
        chosen = [row["results"] for row in rows if key.items() <= row.items()]
        if chosen:
            top1 = [over_seeds([result[name]["top1"]["image"] for result in chosen], count) for name in data]
            errors = [over_seeds([1000 * (1 - r[name]["image_cosine"]) for r in chosen], count) for name in data]
            body.append([model, scheme, variant, " / ".join(top1), " / ".join(errors)])
    return table(["model", "scheme", head, "top-1 %", "1 - cosine, thousandths"], body, texts=3)


def seeds(rows: list[Row]) -> int:
    return len({row["seed"] for row in rows})


def pictures(rows: list[Row]) -> str:
    """How many images of each data set were judged."""
    return f"{rows[0]['rows']:,}" if rows[0]["rows"] else "10,000"


def places(rows: list[Row]) -> str:
    """The devices and versions that rows were measured with."""
    return "; ".join(sorted({conditions(row["setup"]) for row in rows}))


if __name__ == "__main__":
    table_command(__doc__, page)
