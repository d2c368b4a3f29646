"""Tables of what accuracy quantization leaves."""

from __future__ import annotations

import itertools
from statistics import mean
from typing import Any

from benchmarks.pages.results import interval, markdown, quantization_rows, read_lines, read_result

BENCH_MODELS = ("bench-vit", "bench-rn")
FORM_KEYS = ("model", "scheme", "reconstruction", "label", "sigma")
BENCH_DATA = ("tiny-imagenet-val", "cifar10-test")
SCHEMES = ("W8A8", "W4A8", "W6A6", "W4A4")


def calibration() -> str:
    """Top-1 by scheme and calibration images, with blocks learned."""
    methods = {"noise": "noise", "d4c": "D4C", "real": "photographs"}
    rows = [
        [f"{model}, {scheme}", *(_top1(model, scheme, "block", method) for method in methods)]
        for model in BENCH_MODELS
        for scheme in SCHEMES
    ]
    return markdown(["", *methods.values()], _with_float(rows))


def reconstructions() -> str:
    """Top-1 by scheme and reconstruction, with D4C images, by the newest code that the forms were measured with."""
    measured = read_lines("forms", "forms")
    kinds = {"none": "ranges only", "gptq": "GPTQ", "block": "block"}
    code = measured[-1]["label"]
    rows = [
        [f"{model}, {scheme}", *(_form(measured, (model, scheme, kind, code, 0.0)) for kind in kinds)]
        for model in BENCH_MODELS
        for scheme in SCHEMES
    ]
    return markdown(["", *kinds.values()], _with_float(rows))


def forms() -> str:
    """Top-1 of the even form and of one with sigma 1, by the code before there was a canonical form and with it."""
    measured = read_lines("forms", "forms")
    codes = list(dict.fromkeys(row["label"] for row in measured))
    columns = [(code, sigma) for code in (codes[0], codes[-1]) for sigma in (0.0, 1.0)]
    heads = ["before: as trained", "before: rewritten", "now: as trained", "now: rewritten"]
    kinds = {"gptq": "GPTQ", "block": "block"}
    rows = []
    for model, scheme, kind in itertools.product(BENCH_MODELS, SCHEMES, kinds):
        cells = (_form(measured, (model, scheme, kind, *column)) for column in columns)
        rows.append([f"{model}, {scheme}, {kinds[kind]}", *cells])
    return markdown(["", *heads], rows)


def _form(measured: list[dict[str, Any]], key: tuple[object, ...]) -> str:
    cells = [row for row in measured if tuple(row[name] for name in FORM_KEYS) == key]
    return " / ".join(f"{mean(cell['results'][data]['top1']['both'] for cell in cells):.1f}" for data in BENCH_DATA)


def siglip() -> str:
    """Points of top-1 that both towers of the small SigLIP and of bench-vit lose, on the set that loses more."""
    methods = {"noise": "noise", "leaves": "dead leaves", "d4c": "D4C"}
    methods |= {"d4c-sigmoid": "D4C, sigmoid", "real": "photographs"}
    goals = dict(zip(SCHEMES, (0.2, 0.7, 0.7, 5.0), strict=True))
    kinds = {"gptq": "GPTQ", "block": "block"}
    measured = read_lines("siglip", "siglip")
    rows = []
    for model, kind, scheme in itertools.product(("small-siglip", "bench-vit"), kinds, SCHEMES):
        row = [f"{model}, {scheme}, {kinds[kind]}", f"{goals[scheme]:.1f}"]
        for method in methods:
            cell = {"model": model, "scheme": scheme, "reconstruction": kind, "method": method}
            results = [line["results"] for line in measured if line | cell == line]
            losses = [[r[data]["float_top1"] - r[data]["top1"]["both"] for r in results] for data in BENCH_DATA]
            row.append(f"{max(map(mean, losses)):.2f}" if results else "")
        rows.append(row)
    return markdown(["", "goal", *methods.values()], rows)


def demo() -> str:
    """What `make demo` printed on one machine."""
    rows = []
    for row in read_result("demo_run", "demo_run")["rows"]:
        close = row.get("fidelity")
        same = "" if close is None else f"{close['same_class']['value']:.0f}"
        cosine = "" if close is None else f"{close['cosine']:.3f}"
        name = row["name"] if row["scheme"] is None else f"{row['scheme']}, {row['name']}"
        rows.append([name, f"{row['bytes'] / 1e6:.1f}", interval(row["top1"]), same, cosine])
    return markdown(["", "MB", "top-1 %", "same class as float %", "cosine to float"], rows)


def text_tower() -> str:
    """Error and kept classes of a text tower with and without spikes, by placement, at 8 bits."""
    names = {
        "per tensor, min-max": "one scale per tensor, min-max",
        "RepQ-ViT, min-max": "RepQ-ViT's placement, min-max",
        "RepQ-ViT, MSE": "RepQ-ViT's placement, MSE",
        "D4C, min-max": "the D4C paper's placement, min-max",
        "D4C, MSE": "the D4C paper's placement, MSE",
        "ours": "**d4c**",
    }
    cells = [row for row in read_result("text_tower", "spikes")["spikes"]["rows"] if row["scheme"] == "W8A8"]
    rows = []
    for placement, label in names.items():
        rows.append([label])
        for form in ("plain", "spiked"):
            seeds = [row for row in cells if (row["placement"], row["form"]) == (placement, form)]
            rows[-1] += [f"{mean(1000 * (1 - row['cosine']) for row in seeds):.2f}"]
            rows[-1] += [f"{mean(row['same_class'] for row in seeds):.1f}"]
    return markdown(["W8A8", "demo-vit: error", "same class %", "with spikes: error", "same class %"], rows)


def _top1(model: str, scheme: str, reconstruction: str, method: str) -> str:
    cell = {"model": model, "scheme": scheme, "reconstruction": reconstruction, "method": method}
    cells = [row for row in quantization_rows("accuracy") if row | cell == row]
    return " / ".join(f"{mean(row['results'][data]['top1']['value'] for row in cells):.1f}" for data in BENCH_DATA)


def _with_float(rows: list[list[str]]) -> list[list[str]]:
    """The rows, each model's float accuracy in front of its own."""
    lines: list[list[str]] = []
    for row in rows:
        model = row[0].partition(",")[0]
        label = f"{model}, float"
        if all(line[0] != label for line in lines):
            results = next(cell["results"] for cell in quantization_rows("accuracy") if cell["model"] == model)
            lines.append([label, " / ".join(f"{results[data]['float_top1']:.1f}" for data in BENCH_DATA)])
            lines[-1] += [""] * (len(row) - 2)
        lines.append(row)
    return lines
