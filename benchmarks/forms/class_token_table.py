"""The table of the rows that `benchmarks.forms.class_token` wrote.

    python -m benchmarks.forms.class_token_table benchmarks/forms/results/class_token.jsonl

Writes a Markdown file beside the rows.
"""

from __future__ import annotations

import itertools

from benchmarks.common.rows import Row
from benchmarks.common.tables import RECONSTRUCTIONS, conditions, over_seeds, table, table_command
from benchmarks.forms.class_token import MODELS, SCHEMES

INPUTS = {False: "one range", True: "class token apart"}


def page(rows: list[Row]) -> str:
    """Points lost and the distance to float with one range for all rows, and with one for the class token."""
    axes = ("method", "model", "scheme", "reconstruction")
    known = [dict.fromkeys(row[axis] for row in rows) for axis in axes]
    orders = (known[0], MODELS, SCHEMES, known[3])
    body = []
    for values in itertools.product(*orders):
        for wide, name in INPUTS.items():
            key = dict(zip(axes, values, strict=True)) | {"wide": wide}
            if chosen := [row for row in rows if key.items() <= row.items()]:
                method, model, scheme, kind = values
                body.append([model, scheme, RECONSTRUCTIONS.get(kind, kind), method, name, *_entries(chosen, rows)])
    count = f"{rows[0]['rows']:,} images of each, evenly spread" if rows[0]["rows"] else "10,000 images each"
    where = "; ".join(sorted({conditions(row["setup"]) for row in rows}))
    heads = ["model", "scheme", "rounding", "images", "inputs", "points to float", "1 - cosine, thousandths"]
    return "\n".join(
        [
            "# A range of its own for the class token",
            "",
            "Both towers, the form as trained; Tiny ImageNet / CIFAR-10, "
            f"{count}. `class token apart`: `wide_class_token`. The cosine is that of image embeddings. "
            f"Measured by `benchmarks/forms/class_token.py` on {where}; seeds: {len({row['seed'] for row in rows})}.",
            "",
            *table(heads, body, texts=5),
        ]
    )


def _entries(chosen: list[Row], rows: list[Row]) -> list[str]:
    """Points to float and the distance of embeddings, over seeds, on each dataset."""
    seeds, data = len({row["seed"] for row in rows}), list(chosen[0]["results"])
    results = {name: [row["results"][name] for row in chosen] for name in data}
    lost = [over_seeds([r["top1"]["both"] - r["float_top1"] for r in results[name]], seeds) for name in data]
    far = [over_seeds([1000 * (1 - r["image_cosine"]) for r in results[name]], seeds) for name in data]
    return [" / ".join(lost), " / ".join(far)]


if __name__ == "__main__":
    table_command(__doc__, page)
