"""The Markdown of what `quantization.py` measured.

python benchmarks/quantization_table.py out/quantization.jsonl > benchmarks/results/quantization.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.calibration.table import METHODS, SCHEMES, SHORT, cell

Row = dict[str, Any]
GOALS = {"W8A8": 0.2, "W4A8": 0.7, "W6A6": 0.7, "W4A4": 5.0}
"""Points of top-1 that a scheme may lose against float."""


def line(values: list[str]) -> str:
    return f"| {' | '.join(values)} |"


def head(names: list[str]) -> list[str]:
    return [line(names), line(["---"] + ["---:"] * (len(names) - 1))]


def where(setup: dict[str, Any]) -> str:
    versions = ", ".join(f"{package} {number}" for package, number in setup["versions"].items())
    return f"{setup['device']}, {versions}"


def kind(row: Row) -> str:
    """The reconstruction in words."""
    return {"none": "ranges only", "gptq": "GPTQ"}.get(
        row["reconstruction"]
    ) or f"block, {row['recipe']['iterations']} steps"


def distinct(rows: list[Row]) -> list[str]:
    """The reconstructions of rows, from the quickest on."""
    order = ("none", "gptq", "block")
    return list(dict.fromkeys(kind(r) for r in sorted(rows, key=lambda r: order.index(r["reconstruction"]))))


def accuracy_tables(rows: list[Row]) -> list[str]:
    """A section for each model and number of images that it was judged on."""
    out: list[str] = []
    for group in dict.fromkeys((r["model"], r["preset"], r["rows"]) for r in rows):
        chosen = [r for r in rows if (r["model"], r["preset"], r["rows"]) == group]
        model, preset, _ = group
        seeds = sorted({r["seed"] for r in chosen})
        out += [
            f"## {model}: both towers, deployable track",
            "",
            f"Images of d4c: synthesis preset `{preset}`. Top-1 %: mean (lowest to highest) over seeds "
            f"{', '.join(map(str, seeds))}; **bold** where the mean is as close to float as it should be.",
            "",
        ]
        for data in chosen[0]["results"]:
            out += _accuracy(chosen, data, len(seeds))
        out += _costs(chosen)
    return out


def _accuracy(rows: list[Row], data: str, seeds: int) -> list[str]:
    """One table: scheme and reconstruction by calibration images."""
    result = rows[0]["results"][data]
    methods = [m for m in METHODS if any(r["method"] == m for r in rows)]
    out = [f"{SHORT[data]}, {result['count']:,} images, float {result['float_top1']:.2f}:", ""]
    out += head(["scheme, reconstruction", "may lose", *methods])
    for scheme in (s for s in SCHEMES if any(r["scheme"] == s for r in rows)):
        own = [r for r in rows if r["scheme"] == scheme]
        for name in distinct(own):
            shown = []
            for method in methods:
                found = [r for r in own if r["method"] == method and kind(r) == name]
                values = [r["results"][data]["top1"]["value"] for r in found]
                good = bool(values) and mean(values) >= result["float_top1"] - GOALS[scheme]
                shown.append(f"**{cell(values, seeds)}**" if good else cell(values, seeds))
            out.append(line([f"{scheme}, {name}", f"{GOALS[scheme]}", *shown]))
    return [*out, ""]


def _costs(rows: list[Row]) -> list[str]:
    """Seconds and memory of quantizing, by reconstruction."""
    out = head(["reconstruction", "seconds", "GPU memory, GiB"])
    for name in distinct(rows):
        figures = [r["quantize"] for r in rows if kind(r) == name]
        out.append(line([name, cell([f["seconds"] for f in figures], len(figures)), _memory(figures)]))
    processes = sorted({r["processes"] for r in rows})
    return [*out, "", f"Processes that shared the device: {', '.join(map(str, processes))}.", ""]


def _memory(figures: list[Row]) -> str:
    known = [f["memory_gib"] for f in figures if f["memory_gib"] is not None]
    return f"{max(known):.2f}" if known else ""


def time_tables(rows: list[Row]) -> list[str]:
    """Seconds of quantizing models in full size."""
    out = [
        "## Seconds for models in full size",
        "",
        "Random weights, both towers; mean (lowest to highest) of repeats ",
    ]
    out[-1] += "behind a first call, in which block learns in ten steps."
    out += ["", *head(["model, scheme", "images", "prompts", "reconstruction", "seconds", "first call", "memory, GiB"])]
    for r in rows:
        spent = cell([f["seconds"] for f in r["repeats"]], len(r["repeats"]))
        sizes = [f"{r['model']}, {r['scheme']}", str(r["images"]), str(r["prompts"]), kind(r)]
        out.append(line([*sizes, spent, f"{r['first']['seconds']:.1f}", _memory(r["repeats"])]))
    return [*out, ""]


def peer_tables(results: dict[str, Any]) -> str:
    """Accuracy of each tool, and its seconds as a share of NNCF's on the same images."""
    lines = ["# Int8 of peers beside d4c's W8A8", "", "Both towers; how it is measured stands in "]
    lines[-1] += "`benchmarks/quantization_peers.py`. " + where(results["setup"]) + f", {results['setup']['date']}."
    lines += [
        "",
        "`time / NNCF`: processor seconds to quantize both towers as a share of NNCF's on the same images. torchao ",
    ]
    lines[-1] += "measures activations in every run and leaves convolutions, which are most of a ResNet, in float."
    lines.append("")
    rows = results["rows"]
    for model, count in dict.fromkeys((r["model"], r["rows"]) for r in rows):
        chosen = [r for r in rows if (r["model"], r["rows"]) == (model, count)]
        data = list(chosen[0]["results"])
        floats = ", ".join(f"{SHORT[d]} {chosen[0]['results'][d]['float_top1']:.2f}" for d in data)
        counts = " and ".join(f"{chosen[0]['results'][d]['count']:,}" for d in data)
        lines += [f"## {model}: float {floats} ({counts} images)", ""]
        names = [name for d in data for name in (f"{SHORT[d]}: top-1 %", "same class as float %")]
        lines += head(["tool", "calibration images", *names, "image cosine", "text cosine", "time / NNCF"])
        for r in chosen:
            found = [f"{v:.2f}" for d in data for v in _peer_figures(r["results"][d])]
            close = r["results"][data[0]]["fidelity"]
            cosines = [f"{close['cosine']:.4f}", f"{close['text_cosine']:.4f}"]
            theirs = [o for o in chosen if o["candidate"] == "NNCF int8" and o["method"] == r["method"]]
            share = r["quantize"]["cpu_seconds"] / theirs[0]["quantize"]["cpu_seconds"] if theirs else None
            shown = "" if share is None else f"{share:.2f}"
            lines.append(line([r["candidate"], r["method"], *found, *cosines, shown]))
        lines.append("")
    return "\n".join(lines)


def _peer_figures(result: dict[str, Any]) -> tuple[float, float]:
    return result["top1"]["value"], result["fidelity"]["agreement"]["value"]


def main() -> None:
    rows = [json.loads(text) for text in Path(sys.argv[1]).read_text().splitlines()]
    parts = {part: [r for r in rows if r["part"] == part] for part in ("accuracy", "time")}
    print("# Both towers quantized\n")
    print(f"Measured by `benchmarks/quantization.py` on {'; '.join(sorted({where(r['setup']) for r in rows}))}.\n")
    lines = accuracy_tables(parts["accuracy"])
    print("\n".join(lines + (time_tables(parts["time"]) if parts["time"] else [])))


if __name__ == "__main__":
    main()
