"""The tables from the report that `benchmarks.dropin.measure` wrote.

python -m benchmarks.dropin.table benchmarks/dropin/results/dropin.json
"""

from __future__ import annotations

from benchmarks.common.rows import Row
from benchmarks.common.tables import conditions, report_command, table

CALLS = ("image, batch 1", "image, batch 32", "text, batch 1")


def page(report: Row) -> str:
    """A row for each form of the model in each tool."""
    lines = [
        "# Files that drop into other tools",
        "",
        "ViT-B/32 with random weights. *MB*: files of both towers. *Memory*: MB of the process beyond the tool itself, "
        "the most while loading and what is held after one picture and one prompt. *Time*: share of float32 in the "
        "same round, median and quartiles; with one graph for both towers a call embeds one of the other kind too. "
        "*dynamic int8*: ONNX Runtime's `quantize_dynamic` of the float files, 7 bits per channel, which "
        "OpenVINO cannot load.",
        "",
    ]
    names = ["tool", "form", "MB", "memory: load", "memory: use", *CALLS]
    body = [
        [
            *(cell["setup"]["tool"] if tool not in ("immich", "graphs") else f"{tool} ({cell['setup']['tool']})",),
            row["form"],
            f"{row['bytes'] / 1e6:.1f}",
            f"{row['memory']['load']:.0f}",
            f"{row['memory']['use']:.0f}",
            *(_range(row[call]) for call in CALLS),
        ]
        for tool, cell in report["speed"].items()
        for row in cell["rows"]
    ]
    lines += table(names, body, texts=2)
    lines += [
        "## Agreement",
        "",
        "Demo models on the 496 pictures and names of the emoji pack: pictures whose class is that of float32 in the "
        "same tool, and whose class is right. Ours are calibrated on 32 dead-leaves images and 64 prompts, GPTQ.",
        "",
    ]
    body = [
        [cell["setup"]["tool"], cell["model"], row["form"], f"{row['same_class']:.1f}", f"{row['top1']:.1f}"]
        for cell in report["agreement"].values()
        for row in cell["rows"]
    ]
    lines += table(["tool", "model", "form", "same class %", "top-1 %"], body, texts=3)
    cells = [*report["speed"].values(), *report["agreement"].values()]
    lines += [f"{text}." for text in dict.fromkeys(conditions(cell["setup"]) for cell in cells)]
    return "\n".join(lines) + "\n"


def _range(ratio: Row) -> str:
    low, high = ratio["quartiles"]
    return f"{ratio['median']:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    report_command(__doc__, page)
