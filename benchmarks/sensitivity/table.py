"""Tables from the report that `benchmarks.sensitivity.measure` wrote.

python -m benchmarks.sensitivity.table benchmarks/sensitivity/results/sensitivity.json
"""

from __future__ import annotations

from benchmarks.common.rows import Row
from benchmarks.common.tables import head, line, report_command, table
from d4c.quantization.sensitivity.allocation import CHOICES


def page(report: Row) -> str:
    """The report as Markdown."""
    lines = [
        "# Sensitivity of layers, and mixed precision",
        "",
        "Made by `benchmarks/sensitivity/measure.py` with dead leaves as images. Divergence: mean over the images of"
        " KL(float || quantized), in 1/1000 nats, of the zero-shot distribution over 180 generic prompts; deployable"
        " track, ranges only. *Alone*: only this layer is quantized. *Recovery*: by how much the divergence of the"
        " whole quantized model falls when only this layer is left in float.",
    ]
    for name, part in report.items():
        lines += ["", f"## {name}", "", *sensitivity_lines(part)]
        if part["accuracy"]:
            lines += ["", *accuracy_lines(part["accuracy"])]
    return "\n".join(lines) + "\n"


def sensitivity_lines(part: Row) -> list[str]:
    """What the layers of one model cost, by kind and the costliest one by one."""
    figures = part["sensitivity"]
    towers, layers = figures["towers"], figures["layers"]
    alone = sum(row["alone"] for row in layers)
    kinds = [
        [kind, f"{row['weights']:,}", f"{1000 * row['alone']:.2f}", f"{1000 * row['recovery']:.2f}"]
        for kind, row in figures["by_kind"].items()
    ]
    costliest = [layer_cells(row) for row in layers if row["weights"]][:15]
    return [
        f"{figures['images']} images, seed {part['seed']}, {part['device']}, torch {part['versions']['torch']};"
        f" {part['cpu_seconds']:.0f} s of processor time. At {figures['scheme']} the whole model diverges by"
        f" {1000 * figures['divergence']:.1f}, with only the image tower quantized by {1000 * towers['image']:.1f},"
        f" with only the text tower by {1000 * towers['text']:.1f}; the layers one by one sum to {1000 * alone:.1f}.",
        "",
        *table(["kind of layer", "weights", "alone, summed", "recovery, summed"], kinds),
        "The 15 costliest layers, alone at each number of bits:",
        "",
        *head(["layer", "weights", "scheme", *(f"W{bits}" for bits in CHOICES), "recovery"]),
        *map(line, costliest),
    ]


def layer_cells(row: Row) -> list[str]:
    widths = [f"{1000 * row['by_width'][str(bits)]:.2f}" for bits in CHOICES]
    return [row["name"], f"{row['weights']:,}", row["scheme"], *widths, f"{1000 * row['recovery']:.2f}"]


def accuracy_lines(rows: list[Row]) -> list[str]:
    """Uniform schemes beside mixed precision, on every dataset."""
    counts = {name: result["count"] for name, result in rows[0]["results"].items()}
    body = []
    for row in rows:
        cells = []
        for result in row["results"].values():
            near = result["fidelity"]
            cells.append(f"{result['top1']['value']:.2f}" + (f" ({near['kl']:.4f})" if near else ""))
        body.append([row["reconstruction"], row["label"], f"{row['bits']:.3f}", *cells])
    names = ["reconstruction", "weights", "bits a weight", *(f"{name}, {n} images" for name, n in counts.items())]
    title = "Top-1 % and, in brackets, KL from the float model in nats:"
    return [title, "", *head(names, texts=2), *map(line, body)]


if __name__ == "__main__":
    report_command(__doc__, page)
