"""Tables from the rows that `benchmarks.forms.measure` wrote.

    python -m benchmarks.forms.table benchmarks/forms/results/forms.jsonl

Writes a Markdown file beside the rows.
"""

from __future__ import annotations

from statistics import mean

from benchmarks.common.rows import Row
from benchmarks.common.tables import DATASETS, RECONSTRUCTIONS, SCHEMES, conditions, table, table_command

MODELS = ("bench-vit", "bench-rn", "demo-vit", "demo-rn", "stress-vit")
KINDS = ("none", "gptq", "block")
GOALS = {"W8A8": 0.2, "W4A8": 0.2, "W6A6": 0.2, "W4A4": 0.5}
"""Points of top-1 by which an uneven form may differ from the even one."""
TOWERS = {"both": "both towers", "image": "image tower alone", "text": "text tower alone"}


def page(rows: list[Row]) -> str:
    """What the forms of each model keep, by the code that quantized them; the code is named by its commit."""
    codes = list(dict.fromkeys(row["label"] for row in rows))
    where = "; ".join(sorted({conditions(row["setup"]) for row in rows}))
    lines = [
        "# One function in several forms",
        "",
        "Each model is quantized as it is (even), and rewritten without changing its function: every channel axis "
        "scaled by log-normal factors of the sigma named, and the channels of each head rotated. Deployable track, "
        "images of d4c, top-1 % on Tiny ImageNet / CIFAR-10 (10,000 images each), mean over "
        f"{_seeds(rows)}. Measured by `benchmarks/forms/measure.py` on {where}; code: {', '.join(codes)}.",
        "",
        "## Largest difference between the even form and an uneven one",
        "",
        *_differences(rows, codes),
    ]
    for model in MODELS:
        if chosen := [row for row in rows if row["model"] == model]:
            lines += [f"## {model}", "", f"Float: {_float(chosen[0])}.", ""]
            for tower, title in TOWERS.items():
                lines += [f"{title.capitalize()}:", "", *_forms(chosen, codes, tower)]
    return "\n".join(lines)


def _differences(rows: list[Row], codes: list[str]) -> list[str]:
    """Points of top-1 by scheme, over both sets and all reconstructions; the goals beside them."""
    columns = [(model, code) for model in MODELS for code in codes if _chosen(rows, model=model, label=code)]
    body = [
        [scheme, f"{GOALS[scheme]:.1f}", *(_worst(_chosen(rows, model=m, label=c, scheme=scheme)) for m, c in columns)]
        for scheme in SCHEMES
    ]
    return table(["scheme", "goal", *(f"{model}, {code}" for model, code in columns)], body)


def _worst(rows: list[Row]) -> str:
    gaps = []
    for kind in KINDS:
        for data in DATASETS:
            by_sigma = {s: _top1(_chosen(rows, reconstruction=kind, sigma=s), data, "both") for s in _sigmas(rows)}
            if (even := by_sigma.pop(0.0, None)) is not None:
                gaps += [other - even for other in by_sigma.values() if other is not None]
    return f"{max(gaps, key=abs):+.2f}" if gaps else ""


def _forms(rows: list[Row], codes: list[str], tower: str) -> list[str]:
    """A row for each scheme, reconstruction and code; a column for each form."""
    sigmas = _sigmas(rows)
    body = []
    for scheme in SCHEMES:
        for kind in KINDS:
            for code in codes:
                cells = _chosen(rows, scheme=scheme, reconstruction=kind, label=code)
                name = f"{scheme}, {RECONSTRUCTIONS.get(kind, kind)}"
                if cells:
                    body.append([name, code, *(_pair(_chosen(cells, sigma=sigma), tower) for sigma in sigmas)])
    return table(["scheme, reconstruction", "code", *map(_form, sigmas)], body, texts=2)


def _pair(rows: list[Row], tower: str) -> str:
    values = [_top1(rows, data, tower) for data in DATASETS]
    return " / ".join(f"{value:.1f}" for value in values if value is not None)


def _top1(rows: list[Row], data: str, tower: str) -> float | None:
    values = [row["results"][data]["top1"][tower] for row in rows if data in row["results"]]
    return mean(values) if values else None


def _float(row: Row) -> str:
    return " / ".join(f"{result['float_top1']:.2f}" for result in row["results"].values())


def _form(sigma: float) -> str:
    return f"sigma {sigma:g}" if sigma else "even"


def _sigmas(rows: list[Row]) -> list[float]:
    return sorted({row["sigma"] for row in rows})


def _seeds(rows: list[Row]) -> str:
    return f"seeds {', '.join(map(str, sorted({row['seed'] for row in rows})))}"


def _chosen(rows: list[Row], **entries: object) -> list[Row]:
    return [row for row in rows if entries.items() <= row.items()]


if __name__ == "__main__":
    table_command(__doc__, page)
