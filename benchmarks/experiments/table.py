"""Makes the tables of docs/experiments.md from the files under results/.

python -m benchmarks.experiments.table
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from benchmarks.common.rows import read_rows as read_jsonl
from benchmarks.common.rows import write_text
from benchmarks.common.tables import SCHEMES, table
from benchmarks.experiments.measured_rows import (
    BASE,
    DOMAINS,
    PHOTOGRAPHS,
    PHOTOGRAPHS_FOR_CALIBRATION,
    RESULTS,
    Row,
    curve_rows,
    difference,
    label,
    mean_difference,
    only,
    ordered,
    prompt_count,
    read_rows,
    select,
    synthesis_seconds,
    with_range,
)
from benchmarks.inspection.table import PROMPTS, STRUCTURE, Columns, method_table

MISSING = "–"
"""Stands for what was not measured, or cannot be."""
PROMPT_COUNTS = (10, 20, 45, 90, 180)
"""Those of the grid of prompts."""


def mean(row: Row | None) -> str:
    return MISSING if row is None else f"{float(row['mean']):.1f}"


def spread(row: Row | None) -> str:
    """Mean and standard deviation over seeds."""
    return mean(row) if row is None or not row["spread"] else with_range(mean(row), float(row["spread"]))


def seeds(rows: Sequence[Row]) -> str:
    """How many seeds the rows have, for a heading; nothing with one."""
    counts = sorted({int(row["seeds"]) for row in rows if row["scheme"] != "float"})
    span = " to ".join(dict.fromkeys(str(count) for count in (counts[0], counts[-1])))
    return "" if counts[-1] == 1 else f", {span} seeds"


def models_of(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["model"] for row in rows))


def floats(rows: Sequence[Row], model: str, data: Sequence[str]) -> str:
    """What the float model has on some sets, of whichever grid."""
    return " / ".join(mean(next(iter(select(rows, model=model, dataset=d, method="float")), None)) for d in data)


def methods_tables(rows: list[Row], grids: Sequence[str], data: Sequence[str]) -> list[str]:
    """A table for each model: methods by scheme, and what float has."""
    lines = []
    chosen = select(rows, grid=grids, dataset=data)
    for model in models_of(chosen):
        own = select(chosen, model=model)
        schemes = [scheme for scheme in SCHEMES if select(own, scheme=scheme)]
        body = []
        for method in ordered(own):
            cells = [[only(own, method=method, scheme=s, dataset=d) for d in data] for s in schemes]
            body.append([label(method), *(" / ".join(map(spread, cell)) for cell in cells)])
        heads = [scheme + seeds(select(own, scheme=scheme)) for scheme in schemes]
        lines += [f"**{model}**, float {floats(own, model, data)}:", "", *table(["images", *heads], body)]
    return lines


def beside_leaves(rows: list[Row], grids: Sequence[str], data: str) -> list[str]:
    """What methods are better than dead leaves on a dataset, by model and scheme."""
    chosen = select(rows, grid=grids, dataset=data)
    methods = [method for method in ordered(chosen) if method != BASE]
    body = []
    for model in models_of(chosen):
        for scheme in SCHEMES:
            own = select(chosen, model=model, scheme=scheme)
            differences = [difference(own, only(own, method=method)) for method in methods]
            if own:
                body.append([f"{model}, {scheme}", *(MISSING if d is None else str(d) for d in differences)])
    return table([f"minus dead leaves, {DOMAINS[data]}", *map(label, methods)], body)


def means_table(rows: list[Row]) -> list[str]:
    """What methods are better than dead leaves in the mean over the bench models and both sets of photographs."""
    columns = {"noise": ["noise"], "pink noise": ["pink"], "bns, pse": ["bns", "pse"], "D4C": ["d4c"]}
    columns["photographs"] = [PHOTOGRAPHS_FOR_CALIBRATION]
    grids = {
        "GPTQ": ("methods-4bit", "methods-8bit"),
        "learned blocks": ("blocks-4bit",),
        "published places": ("published-4bit", "published-8bit"),
    }
    body = []
    for name, grid in grids.items():
        for scheme in SCHEMES:
            every = select(rows, grid=grid, scheme=scheme, dataset=PHOTOGRAPHS)
            # Differences are paired by seed, so that a model with fewer seeds than others has no place in the mean.
            most = max((int(row["seeds"]) for row in every), default=0)
            own = [row for row in every if int(row["seeds"]) == most]
            chosen = [select(own, method=methods) for methods in columns.values()]
            if own:
                without = [f", without {model}" for model in models_of(every) if model not in models_of(own)]
                texts = [mean_difference(rows, each).text(2) if each else MISSING for each in chosen]
                body.append([f"{name}, {scheme}{''.join(without)}{seeds(own)}", *texts])
    return table(["minus dead leaves, mean over models and sets", *columns], body)


def blocks_table(rows: list[Row]) -> list[str]:
    """Learned blocks beside GPTQ at W4A4."""
    learned = select(rows, grid="blocks-4bit", dataset=PHOTOGRAPHS)
    models, methods = models_of(learned), ordered(learned)
    names = {"methods-4bit": "GPTQ", "blocks-4bit": "blocks"}
    columns = [(model, grid) for model in models for grid in names]
    body = [["float", *(floats(rows, model, PHOTOGRAPHS) for model, _ in columns)]]
    for method in methods:
        cells = [
            [only(rows, grid=grid, model=model, scheme="W4A4", method=method, dataset=d) for d in PHOTOGRAPHS]
            for model, grid in columns
        ]
        body.append([label(method), *(" / ".join(map(spread, cell)) for cell in cells)])
    counts = [seeds(select(rows, grid=grid, model=model, scheme="W4A4")) for model, grid in columns]
    heads = [f"{model}, {names[grid]}{count}" for (model, grid), count in zip(columns, counts, strict=True)]
    return table(["W4A4", *heads], body)


def domain_table(rows: list[Row], scheme: str) -> list[str]:
    """Each model on both domains, by where the images come from."""
    chosen = select(rows, grid="domain")
    columns = [(model, data) for model in models_of(chosen) for data in DOMAINS]
    body = [["float", *(floats(chosen, model, [data]) for model, data in columns)]]
    for method in ordered(chosen):
        cells = [only(chosen, model=m, dataset=d, method=method, scheme=scheme) for m, d in columns]
        body.append([label(method), *map(spread, cells)])
    heading = scheme + seeds(select(chosen, scheme=scheme))
    return table([heading, *(f"{model}: {DOMAINS[data]}" for model, data in columns)], body)


def curve_table(
    rows: list[Row], quantity: str, methods: Sequence[str], seconds: Mapping[int, float] | None = None
) -> list[str]:
    """Accuracy on both sets of photographs by a number, and seconds of D4C's synthesis where they were measured."""
    chosen = curve_rows(rows, quantity)
    body = []
    for value in sorted({row[quantity] for row in chosen}, key=int):
        own = select(chosen, **{quantity: value})
        cells = [[only(own, method=method, dataset=data) for data in PHOTOGRAPHS] for method in methods]
        texts = [" / ".join(map(spread, cell)) for cell in cells]
        if seconds is not None:
            texts.append(f"{seconds[int(value)]:.1f}" if int(value) in seconds else MISSING)
        body.append([value, *texts])
    more = [] if seconds is None else ["synthesis, s"]
    return table([quantity, *map(label, methods), *more], body)


def prompts_table(rows: list[Row]) -> list[str]:
    """Accuracy by the number of prompts."""
    chosen = [row for row in select(rows, grid="prompts") if row["method"] != "float"]
    body = []
    for count in PROMPT_COUNTS:
        own = [row for row in chosen if prompt_count(row) == count]
        body.append([str(count), " / ".join(spread(only(own, dataset=data)) for data in PHOTOGRAPHS)])
    return table(["prompts", "D4C"], body)


def one_range_table() -> list[str]:
    """What `one_range` measured."""
    measured = read_jsonl(RESULTS / "one_range.jsonl")
    head = {"ranges": "ranges of", "one_of": "this one of", "step": "its step", "zero_point": "its zero point"}
    body = [[*(str(row.get(name, "")) for name in head), f"{row['top1']:.1f}"] for row in measured]
    return table([*head.values(), "top-1 %"], body)


def inspection_tables(columns: Columns) -> list[str]:
    lines = []
    for model, figures in json.loads((RESULTS / "inspection.json").read_text()).items():
        lines += [f"**{model}**, {figures['images']} images a set:", "", *method_table(figures["summary"], columns)]
    return lines


def parts(rows: list[Row]) -> dict[str, list[str]]:
    """The tables by the name under which a page takes them in; those of grids that are not measured are left out."""
    grids = {
        "methods": (("methods-4bit", "methods-8bit"), PHOTOGRAPHS),
        "emoji": (("emoji-4bit", "emoji-8bit"), tuple(DOMAINS)),
        "published": (("published-4bit", "published-8bit"), PHOTOGRAPHS),
    }
    made = {"means": means_table(rows)}
    for name, (names, data) in grids.items():
        if select(rows, grid=names):
            made[name] = methods_tables(rows, names, data)
            made |= {f"{name}-{one}": beside_leaves(rows, names, one) for one in data}
    if select(rows, grid="blocks-4bit"):
        made["blocks"] = blocks_table(rows)
        made |= {f"blocks-{one}": beside_leaves(rows, ["blocks-4bit"], one) for one in PHOTOGRAPHS}
    if select(rows, grid="domain"):
        made["domain"] = [*domain_table(rows, "W4A4"), *domain_table(rows, "W4A8")]
        made |= {f"domain-{one}": beside_leaves(rows, ["domain"], one) for one in DOMAINS}
    if any(row["grid"].startswith("images-") for row in rows):
        made["images"] = curve_table(rows, "images", ("leaves", "d4c", PHOTOGRAPHS_FOR_CALIBRATION))
    if any(row["grid"].startswith("iterations-") for row in rows):
        made["iterations"] = curve_table(rows, "iterations", ("d4c",), synthesis_seconds("iterations"))
    if select(rows, grid="prompts"):
        made["prompts"] = prompts_table(rows)
    made["one-range"] = one_range_table()
    return made | {"coverage": inspection_tables(PROMPTS), "structure": inspection_tables(STRUCTURE)}


def main() -> None:
    lines = []
    for name, made in parts(read_rows()).items():
        lines += [f"<!-- --8<-- [start:{name}] -->", *made, f"<!-- --8<-- [end:{name}] -->"]
    write_text(RESULTS / "experiments.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
