"""Tables from the rows that `benchmarks.choices.measure` wrote.

python -m benchmarks.choices.table benchmarks/choices/results/choices.jsonl
"""

from __future__ import annotations

from benchmarks.common.rows import Row
from benchmarks.common.tables import RECONSTRUCTIONS, conditions, spread, table, table_command

TITLES = {
    "strength": "How much of the ranges of channels goes into the weights that read them",
    "basis": "The basis of attention heads: left alone, or balanced with a prior of some weight",
    "softmax": "The rows of a softmax: one range for all, or relative to the peak of each",
    "hidden": "The range of a hidden layer: of least error of itself, or of the output of the layer that reads it",
    "rotation": "What LayerNorms hand on: scaled by channel, or the residual stream rotated",
    "damping": "GPTQ's damping, as a share of the mean diagonal",
    "points": "Points that stand for an activation: drawn at random, and each tail",
    "ranges": "Ranges of activations",
    "softening": "Every second calibration image at a half or a quarter of its sharpness",
}


def page(rows: list[Row]) -> str:
    """A section for each choice."""
    where = "; ".join(sorted({conditions(row["setup"]) for row in rows}))
    images = ", ".join(sorted({str(row["images"]) for row in rows}))
    lines = [
        "# Defaults of quantization beside their alternatives",
        "",
        f"1 - cosine between quantized and float image embeddings, in thousandths, lower is better; mean (lowest to "
        f"highest) over seeds. Image towers, {images} dead leaves, 124 pictures of the emoji pack, as they are and "
        f"enlarged from a quarter of their size. Measured by `benchmarks/choices/measure.py` on {where}.",
        "",
    ]
    for choice in (choice for choice in TITLES if any(row["choice"] == choice for row in rows)):
        lines += [f"## {TITLES[choice]}", "", *choice_table([row for row in rows if row["choice"] == choice])]
    return "\n".join(lines)


def choice_table(rows: list[Row]) -> list[str]:
    """A row for each cell and kind of picture, a column for each alternative, over the seeds that all of them have."""
    alternatives = list(dict.fromkeys(row["alternative"] for row in rows))
    body = []
    for cell in dict.fromkeys((row["model"], row["scheme"], row["reconstruction"]) for row in rows):
        chosen = [row for row in rows if (row["model"], row["scheme"], row["reconstruction"]) == cell]
        by_alternative = [{row["seed"] for row in chosen if row["alternative"] == name} for name in alternatives]
        seeds = set.intersection(*by_alternative)
        model, scheme, kind = cell
        for pictures in ("sharp", "enlarged"):
            columns = [
                spread(
                    [
                        1e3 * (1 - row["cosine"][pictures])
                        for row in chosen
                        if row["alternative"] == name and row["seed"] in seeds
                    ]
                )
                for name in alternatives
            ]
            body.append([f"{model}, {scheme}, {RECONSTRUCTIONS.get(kind, kind)}", pictures, str(len(seeds)), *columns])
    return table(["model, scheme, reconstruction", "pictures", "seeds", *alternatives], body, texts=2)


if __name__ == "__main__":
    table_command(__doc__, page)
