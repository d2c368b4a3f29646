"""Tables from the rows that `benchmarks.forms.measure` wrote.

    python -m benchmarks.forms.table benchmarks/forms/results/forms.jsonl

Writes a Markdown file beside the rows.
"""

from __future__ import annotations

import itertools
from statistics import geometric_mean, mean

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
        "## Differences between the even form and uneven ones",
        "",
        "Seed by seed, then the mean over the seeds that both have. A cell is a model, a reconstruction, a sigma and a "
        "test set.",
        "",
        *_differences(rows, codes),
        "The largest by model:",
        "",
        *_largest(rows, codes),
        *_even_forms(rows, codes),
        *_learned(_chosen(rows, label=codes[-1])),
    ]
    for model in MODELS:
        if chosen := [row for row in rows if row["model"] == model]:
            lines += [f"## {model}", "", f"Float: {_float(chosen[0])}.", ""]
            for tower, title in TOWERS.items():
                lines += [f"{title.capitalize()}:", "", *_forms(chosen, codes, tower)]
    return "\n".join(lines)


def _differences(rows: list[Row], codes: list[str]) -> list[str]:
    """How far uneven forms are from the even one, by scheme, code and sigma; the goals beside."""
    body = []
    for code, scheme, sigma in itertools.product(codes, SCHEMES, _sigmas(rows)):
        gaps = list(map(abs, _gaps(_chosen(rows, label=code, scheme=scheme), sigma)))
        if sigma and gaps:
            goal = GOALS[scheme]
            beyond = f"{sum(round(gap, 2) > goal for gap in gaps)} of {len(gaps)}"
            seeds = len({row["seed"] for row in _chosen(rows, label=code, sigma=sigma)})
            line = [f"{seeds}", f"{goal:.1f}", f"{mean(gaps):.2f}", f"{max(gaps):.2f}", beyond]
            body.append([code, scheme, f"{sigma:g}", *line])
    heads = ["code", "scheme", "sigma", "seeds, at most", "goal", "mean", "largest", "cells beyond the goal"]
    return table(heads, body, texts=2)


def _largest(rows: list[Row], codes: list[str]) -> list[str]:
    columns = [(model, code) for model in MODELS for code in codes if _chosen(rows, model=model, label=code)]
    body = []
    for scheme in SCHEMES:
        cells = [_chosen(rows, model=model, label=code, scheme=scheme) for model, code in columns]
        gaps = [[gap for sigma in _sigmas(rows) if sigma for gap in _gaps(chosen, sigma)] for chosen in cells]
        body.append([scheme, *(f"{max(each, key=abs):+.2f}" if each else "" for each in gaps)])
    return table(["scheme", *(f"{model}, {code}" for model, code in columns)], body)


def _gaps(rows: list[Row], sigma: float) -> list[float]:
    """Points of top-1 between the form of a sigma and the even one, for each model, reconstruction and test set."""
    gaps = []
    for model, kind, data in itertools.product(MODELS, KINDS, DATASETS):
        chosen = _chosen(rows, model=model, reconstruction=kind)
        even, other = (_by_seed(_chosen(chosen, sigma=s), data) for s in (0.0, sigma))
        if seeds := even.keys() & other.keys():
            gaps.append(mean(other[seed] - even[seed] for seed in seeds))
    return gaps


def _even_forms(rows: list[Row], codes: list[str]) -> list[str]:
    """The even form with the last code beside the first: the mean difference, and what got worse than seeds explain."""
    first, last = codes[0], codes[-1]
    body, worse = [], []
    for scheme in SCHEMES:
        gaps = []
        for model, kind, data in itertools.product(MODELS, KINDS, DATASETS):
            chosen = _chosen(rows, model=model, reconstruction=kind, scheme=scheme, sigma=0.0)
            a, b = (list(_by_seed(_chosen(chosen, label=code), data).values()) for code in (first, last))
            if a and b:
                gaps.append(mean(b) - mean(a))
                if -gaps[-1] > max(max(a) - min(a), max(b) - min(b)):
                    name = f"{model}, {scheme}, {RECONSTRUCTIONS.get(kind, kind)}, {DATASETS[data]}"
                    worse.append(f"{name}: {gaps[-1]:+.2f}")
        if gaps:
            better = sum(gap > 0 for gap in gaps)
            body.append(
                [scheme, f"{mean(gaps):+.2f}", f"{min(gaps):+.2f}", f"{max(gaps):+.2f}", f"{better}/{len(gaps)}"]
            )
    return [
        f"## The even form: {last} beside {first}",
        "",
        *table(["scheme", "mean", "lowest", "highest", "cells better"], body),
        "Worse by more than the spread of the seeds with either code: " + ("; ".join(worse) or "none") + ".",
        "",
    ]


def _learned(rows: list[Row]) -> list[str]:
    """What learned blocks are worth beside GPTQ, over all forms and seeds that have both."""
    cells = {(r["model"], r["scheme"], r["sigma"], r["seed"], r["reconstruction"]): r for r in rows}
    body = []
    for scheme, model in itertools.product(SCHEMES, MODELS):
        points, errors, times = [], [], []
        for key, learned in cells.items():
            solved = cells.get((*key[:4], "gptq"))
            if key[:2] == (model, scheme) and key[4] == "block" and solved:
                times.append(learned["quantize"]["seconds"] / solved["quantize"]["seconds"])
                for data, result in learned["results"].items():
                    other = solved["results"][data]
                    points.append(result["top1"]["both"] - other["top1"]["both"])
                    errors.append((1 - result["image_cosine"]) / (1 - other["image_cosine"]))
        if points:
            ratios = [f"{geometric_mean(errors):.2f}", f"{mean(times):.1f}"]
            body.append([scheme, model, f"{len(times)}", f"{mean(points):+.2f}", *ratios])
    heads = ["scheme", "model", "pairs", "top-1, points", "1 - cosine of images, ratio", "time, ratio"]
    return [
        "## GPTQ beside learned blocks",
        "",
        "Learned blocks less GPTQ, or divided by it; mean over both test sets and all forms and seeds that have both.",
        "",
        *table(heads, body, texts=2),
    ]


def _by_seed(rows: list[Row], data: str) -> dict[int, float]:
    return {row["seed"]: row["results"][data]["top1"]["both"] for row in rows if data in row["results"]}


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
