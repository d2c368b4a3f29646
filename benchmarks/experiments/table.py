"""Makes the tables of docs/experiments.md from the files under results/.

python -m benchmarks.experiments.table
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.rows import write_text
from benchmarks.common.tables import SCHEMES, table
from benchmarks.inspection.table import PROMPTS, STRUCTURE, method_table

RESULTS = Path(__file__).parent / "results"
METHODS = {"noise": "noise", "pink": "pink noise", "leaves": "dead leaves", "bns": "bns", "pse": "pse", "d4c": "D4C"}
REAL = "real:"
PHOTOGRAPHS = ("tiny-imagenet-val", "cifar10-test")
DOMAINS = {"demo": "emoji", "tiny-imagenet-val": "Tiny ImageNet", "cifar10-test": "CIFAR-10"}
Row = dict[str, str]


def read_rows() -> list[Row]:
    """The rows of grids of which more than the float models is measured."""
    with (RESULTS / "experiments.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    measured = {row["grid"] for row in rows if row["scheme"] != "float"}
    return [row for row in rows if row["grid"] in measured]


def select(rows: Iterable[Row], **wanted: str | Sequence[str]) -> list[Row]:
    """The rows whose columns have one of the values."""
    return [
        row
        for row in rows
        if all(row[name] in ((value,) if isinstance(value, str) else value) for name, value in wanted.items())
    ]


def only(rows: Iterable[Row], **wanted: str | Sequence[str]) -> Row | None:
    matching = select(rows, **wanted)
    assert len(matching) <= 1, wanted
    return matching[0] if matching else None


def label(method: str) -> str:
    """A method in the first column of a table."""
    if method.startswith(REAL):
        return {"demo": "real emoji"}.get(method.removeprefix(REAL), "photographs")
    name, colon, prompts = method.partition(":")
    return METHODS[name] + (f", prompts of {prompts}" if colon else "")


def mean(row: Row | None) -> str:
    return "" if row is None else f"{float(row['mean']):.1f}"


def spread(row: Row | None) -> str:
    """Mean and range over seeds."""
    if row is None or not row["spread"]:
        return mean(row)
    return f"{mean(row)} ({float(row['lowest']):.1f} to {float(row['highest']):.1f})"


def beside(row: Row | None) -> str:
    """The difference to dead leaves in points, with its interval."""
    if row is None or not row["beside_value"]:
        return ""
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(*(float(row[f"beside_{end}"]) for end in ("value", "low", "high")))


def seeds(rows: Iterable[Row]) -> str:
    """How many seeds the rows have."""
    counts = sorted({int(row["seeds"]) for row in rows if row["scheme"] != "float"})
    span = " to ".join(dict.fromkeys(str(count) for count in (counts[0], counts[-1])))
    return f"{span} seed{'' if counts[-1] == 1 else 's'}"


def methods_tables(rows: list[Row], grids: Sequence[str], data: Sequence[str]) -> list[str]:
    """A table for each model: methods by scheme, and what float has."""
    lines = []
    chosen = select(rows, grid=grids, dataset=data)
    for model in dict.fromkeys(row["model"] for row in chosen):
        own = select(chosen, model=model)
        floats = " / ".join(mean(only(select(own, grid=grids[0]), dataset=d, method="float")) for d in data)
        body = []
        for method in ordered(own):
            cells = [[only(own, method=method, scheme=s, dataset=d) for d in data] for s in SCHEMES]
            body.append([label(method), *(" / ".join(map(mean, cell)).strip("/ ") for cell in cells)])
        lines += [f"**{model}**, float {floats}, {seeds(own)}:", "", *table(["images", *SCHEMES], body)]
    return lines


def ordered(rows: Iterable[Row]) -> list[str]:
    """The methods of some rows: the known ones in their order, variants of prompts after their method, real last."""
    names = list(METHODS)
    methods = dict.fromkeys(row["method"] for row in rows if row["method"] != "float")
    return sorted(methods, key=lambda m: len(names) if m.startswith(REAL) else names.index(m.partition(":")[0]))


def beside_leaves(rows: list[Row], grids: Sequence[str], data: str) -> list[str]:
    """What methods are better than dead leaves on a dataset, by model and scheme."""
    chosen = select(rows, grid=grids, dataset=data)
    methods = [method for method in ordered(chosen) if method != "leaves"]
    body = []
    for model in dict.fromkeys(row["model"] for row in chosen):
        for scheme in SCHEMES:
            own = select(chosen, model=model, scheme=scheme)
            if own:
                body.append([f"{model}, {scheme}", *(beside(only(own, method=method)) for method in methods)])
    return table(["minus dead leaves, points", *map(label, methods)], body)


def domain_table(rows: list[Row], scheme: str) -> list[str]:
    """Each model on both domains, by where the images come from."""
    chosen = select(rows, grid="domain")
    models = list(dict.fromkeys(row["model"] for row in chosen))
    columns = [(model, data) for model in models for data in DOMAINS]
    heads = [f"{model}: {DOMAINS[data]}" for model, data in columns]
    floats = [mean(only(chosen, model=model, dataset=data, method="float")) for model, data in columns]
    body = [["float", *floats]]
    for method in ordered(chosen):
        cells = [only(chosen, model=m, dataset=d, method=method, scheme=scheme) for m, d in columns]
        body.append([label(method), *map(spread, cells)])
    return table([scheme, *heads], body)


def curve(rows: list[Row], beginning: str, base: str, column: str, methods: Sequence[str]) -> list[str]:
    """Accuracy on both sets of photographs by a number, which is `base` in the first grid; and D4C's seconds."""
    chosen = [row | {column: row[column] or base} for row in rows if row["grid"].startswith(beginning)]
    chosen += [row | {column: base} for row in select(rows, grid="methods-4bit", model="bench-vit", scheme="W4A4")]
    body = []
    for value in sorted({row[column] for row in chosen if row["method"] in methods}, key=int):
        own = select(chosen, **{column: value})
        cells = [[only(own, method=method, dataset=data) for data in PHOTOGRAPHS] for method in methods]
        texts = [" / ".join(map(mean, cell)) for cell in cells]
        body.append([value, *texts, seconds(only(own, method="d4c", dataset=PHOTOGRAPHS[0]))])
    return table([column, *map(label, methods), "D4C's synthesis, s"], body)


def prompts_table(rows: list[Row]) -> list[str]:
    """Accuracy by the number of prompts."""
    chosen = select(rows, grid="prompts")
    body = []
    for method in sorted(ordered(chosen), key=lambda m: int(m.partition("nouns-")[2] or 180)):
        cells = [only(chosen, method=method, dataset=data) for data in PHOTOGRAPHS]
        body.append([method.partition("nouns-")[2] or "180", *map(spread, cells)])
    return table(["prompts", *(DOMAINS[data] for data in PHOTOGRAPHS)], body)


def seconds(row: Row | None) -> str:
    return "" if row is None or not row["synthesis_seconds"] else f"{float(row['synthesis_seconds']):.0f}"


def inspection_tables(columns: Any) -> list[str]:
    lines = []
    for model, figures in json.loads((RESULTS / "inspection.json").read_text()).items():
        lines += [f"**{model}**, {figures['images']} images a set:", "", *method_table(figures["summary"], columns)]
    return lines


def parts(rows: list[Row]) -> dict[str, list[str]]:
    """The tables by the name under which a page takes them in; those of grids that are not measured are left out."""
    four, eight = ("methods-4bit", "methods-8bit"), ("published-4bit", "published-8bit")
    emoji, real = ("emoji-4bit", "emoji-8bit"), "real:tiny-imagenet-train"
    known = {row["grid"] for row in rows}
    made = {
        "methods": methods_tables(rows, four, PHOTOGRAPHS),
        "leaves": beside_leaves(rows, four, PHOTOGRAPHS[0]),
        "coverage": inspection_tables(PROMPTS),
        "structure": inspection_tables(STRUCTURE),
    }
    if known & set(eight):
        made["published"] = methods_tables(rows, eight, PHOTOGRAPHS)
        made["published-leaves"] = beside_leaves(rows, eight, PHOTOGRAPHS[0])
    if known & set(emoji):
        made["emoji"] = methods_tables(rows, emoji, ("demo",))
        made["emoji-leaves"] = beside_leaves(rows, emoji, "demo")
    if "domain" in known:
        made["domain"] = [*domain_table(rows, "W4A4"), *domain_table(rows, "W4A8")]
    if any(grid.startswith("images-") for grid in known):
        made["images"] = curve(rows, "images-", "128", "images", ("leaves", "d4c", real))
    if any(grid.startswith("iterations-") for grid in known):
        made["iterations"] = curve(rows, "iterations-", "500", "iterations", ("d4c",))
    if "prompts" in known:
        made["prompts"] = prompts_table(rows)
    return made


def main() -> None:
    lines = []
    for name, made in parts(read_rows()).items():
        lines += [f"<!-- --8<-- [start:{name}] -->", *made, f"<!-- --8<-- [end:{name}] -->"]
    write_text(RESULTS / "experiments.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
