"""Tables from the rows that `measure`, `pool` and `full_size` of this folder wrote.

    cd benchmarks/siglip/results
    python -m benchmarks.siglip.table siglip.jsonl pool.jsonl full_size.jsonl

Writes a Markdown file beside the first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from statistics import mean

from benchmarks.common.problems import PHOTOS
from benchmarks.common.rows import Row
from benchmarks.common.tables import DATASETS, RECONSTRUCTIONS, SCHEMES, conditions, spread, table, table_command
from benchmarks.siglip.full_size import MODELS as FULL_SIZES
from benchmarks.siglip.full_size import PLANNED
from benchmarks.siglip.measure import METHODS, MODELS
from benchmarks.siglip.pool import POOLS

KINDS = ("gptq", "block")
GOALS = {"W8A8": 0.2, "W4A8": 0.7, "W6A6": 0.7, "W4A4": 5.0}
"""Points of top-1 below float that quantization may cost, as for bench-vit."""
IMAGES = {
    "noise": "noise",
    "leaves": "dead leaves",
    "d4c": "d4c",
    "d4c-sigmoid": "d4c, sigmoid",
    "real": "photographs",
}
TOWERS = {"both": "Both towers", "image": "Image tower alone", "text": "Text tower alone"}
PAIRS = (("d4c-sigmoid", "d4c"), ("d4c", "leaves"), ("d4c-sigmoid", "leaves"))
"""Images of the small SigLIP that are compared seed by seed."""


def page(rows: list[Row]) -> str:
    """What each kind of images keeps of both models, whether the goals are met, and what full sizes take."""
    cells = [row for row in rows if "results" in row and "pool" not in row]
    pools = [row for row in rows if "pool" in row]
    stages = [row for row in rows if "stage" in row]
    where = "; ".join(sorted({conditions(row["setup"]) for row in cells}))
    seeds = sorted({row["seed"] for row in cells})
    lines = [
        "# A small SigLIP",
        "",
        "A SigLIP that was trained for this benchmark beside bench-vit. Deployable track, top-1 % on Tiny ImageNet / "
        f"CIFAR-10 (10,000 images each), {_seeds(seeds)}; `d4c, sigmoid`: the prompt loss in the sigmoid form of "
        f"SigLIP. Measured by `benchmarks/siglip/measure.py` on {where}.",
        "",
        "## Points lost, beside the goals",
        "",
        "Points of top-1 below float, on the set that loses more: mean over seeds (lowest to highest).",
        "",
        *(line for tower in TOWERS for line in _losses(cells, tower)),
        "## Cosine to float",
        "",
        "Mean cosine between the embeddings of the quantized and the float image tower on Tiny ImageNet: it "
        "sees differences that the accuracy of a weak model does not.",
        "",
        *_cosines(cells),
        "## Images beside each other",
        "",
        "Points of top-1 of the small SigLIP with the first images less those with the second, paired by seed: mean "
        "(lowest to highest). *ahead*: pairs of a seed and a set in which top-1 is higher; *closer*: in which the "
        "image tower's cosine to float is.",
        "",
        *(line for pair in PAIRS for line in _pairs(_chosen(cells, model=MODELS[0]), *pair)),
    ]
    lines += _pools(pools) if pools else []
    for model in MODELS:
        if chosen := _chosen(cells, model=model):
            lines += [f"## {model}", "", f"Float: {_float(chosen[0])}.", ""]
            for tower, title in TOWERS.items():
                lines += [f"{title}:", "", *_top1s(chosen, tower)]
    return "\n".join(lines + (_stages(stages) if stages else []))


def _pools(rows: list[Row]) -> list[str]:
    """What the image tower loses with the pool at either width."""
    body = []
    kinds = dict.fromkeys((row["scheme"], row["method"]) for row in rows)
    for (scheme, method), pool in itertools.product(kinds, POOLS):
        chosen = _chosen(rows, scheme=scheme, method=method, pool=pool)
        losses = [[_value(row, data, "float") - _value(row, data, "image") for row in chosen] for data in PHOTOS]
        distances = [[1000 * (1 - row["results"][data]["image_cosine"]) for row in chosen] for data in PHOTOS]
        pairs = (" / ".join(map(spread, each)) for each in (losses, distances))
        body.append([f"{scheme}, {IMAGES[method]}", pool, str(len(chosen)), *pairs])
    heads = ["scheme, images", "values and first layer of the pool", "seeds", "points lost", "1 - cosine, thousandths"]
    return [
        "## The pool",
        "",
        f"The image tower of the small SigLIP with GPTQ, Tiny ImageNet / CIFAR-10{_count(rows)}. Measured by "
        f"`benchmarks/siglip/pool.py` on {conditions(rows[0]['setup'])}.",
        "",
        *table(heads, body, texts=2),
    ]


def _count(rows: list[Row]) -> str:
    return f", {rows[0]['rows']:,} images of each" if rows[0]["rows"] else ""


def _losses(rows: list[Row], tower: str) -> list[str]:
    body = []
    for model, scheme, kind, cells in _by_quantizer(rows):
        seeds = len({row["seed"] for row in cells})
        losses = [_loss(_chosen(cells, method=method), tower, seeds) for method in METHODS]
        body.append([model, f"{scheme}, {_kind(kind)}", str(seeds), f"{GOALS[scheme]:.1f}", *losses])
    heads = ["model", "scheme, reconstruction", "seeds", "goal", *IMAGES.values()]
    return [f"{TOWERS[tower]}:", "", *table(heads, body, texts=2)]


def _cosines(rows: list[Row]) -> list[str]:
    body = [
        [model, f"{scheme}, {_kind(kind)}", *(_cosine(_chosen(cells, method=method)) for method in METHODS)]
        for model, scheme, kind, cells in _by_quantizer(rows)
    ]
    return table(["model", "scheme, reconstruction", *IMAGES.values()], body, texts=2)


def _by_quantizer(rows: list[Row]) -> Iterator[tuple[str, str, str, list[Row]]]:
    """Each model, scheme and reconstruction that was measured, with its rows."""
    for model, scheme, kind in itertools.product(MODELS, SCHEMES, KINDS):
        if cells := _chosen(rows, model=model, scheme=scheme, reconstruction=kind):
            yield model, scheme, kind, cells


def _cosine(rows: list[Row]) -> str:
    return f"{mean(row['results'][PHOTOS[0]]['image_cosine'] for row in rows):.4f}" if rows else ""


def _loss(rows: list[Row], tower: str, seeds: int) -> str:
    """Points of top-1 below float on the set that loses more in the mean, and how many seeds where some are missing."""
    losses = [[_value(row, data, "float") - _value(row, data, tower) for row in rows] for data in PHOTOS]
    missing = f", {len(rows)} seeds" if 0 < len(rows) < seeds else ""
    return spread(max(losses, key=sum)) + missing


def _pairs(rows: list[Row], first: str, second: str) -> list[str]:
    """What one kind of images gives beside another, by scheme and reconstruction and for all schemes together."""
    body = []
    for kind in KINDS:
        every: list[tuple[Row, Row]] = []
        for scheme in SCHEMES:
            cells = _chosen(rows, scheme=scheme, reconstruction=kind)
            by_seed = [{row["seed"]: row for row in _chosen(cells, method=method)} for method in (first, second)]
            pairs = [(by_seed[0][seed], by_seed[1][seed]) for seed in sorted(by_seed[0].keys() & by_seed[1].keys())]
            every += pairs
            if pairs:
                body.append([f"{scheme}, {_kind(kind)}", str(len(pairs)), *_differences(pairs)])
        if every:
            body.append([f"all schemes, {_kind(kind)}", "", *_differences(every)])
    heads = ["scheme, reconstruction", "seeds", *(DATASETS[data] for data in PHOTOS), "ahead", "closer"]
    return [f"{IMAGES[first]} less {IMAGES[second]}:", "", *table(heads, body)]


def _differences(pairs: list[tuple[Row, Row]]) -> list[str]:
    """Points of top-1 on each set, and in how many cases the first of a pair is ahead and closer to float."""
    points = {
        data: [_value(one, data, "both") - _value(other, data, "both") for one, other in pairs] for data in PHOTOS
    }
    closer = [
        one["results"][data]["image_cosine"] > other["results"][data]["image_cosine"]
        for one, other in pairs
        for data in PHOTOS
    ]
    ahead = [value > 0 for values in points.values() for value in values]
    counts = (f"{sum(cases)} of {len(cases)}" for cases in (ahead, closer))
    return [*map(spread, points.values()), *counts]


def _top1s(rows: list[Row], tower: str) -> list[str]:
    body = [
        [f"{scheme}, {_kind(kind)}", *(_pair(_chosen(cells, method=method), tower) for method in METHODS)]
        for _model, scheme, kind, cells in _by_quantizer(rows)
    ]
    return table(["scheme, reconstruction", *IMAGES.values()], body)


def _pair(rows: list[Row], tower: str) -> str:
    return " / ".join(f"{mean(_values(rows, data, tower)):.1f}" for data in PHOTOS) if rows else ""


def _stages(rows: list[Row]) -> list[str]:
    """Seconds and memory of each stage of full-size models."""
    body = [
        [
            row["model"],
            row["stage"] + (f", {row['batch']} images at once" if row.get("batch", 0) < row.get("images", 0) else ""),
            f"{row['seconds']:.0f}" + (f" for {row['iterations']} iterations" if "iterations" in row else ""),
            f"{row['extrapolated_seconds']:.0f}" if "extrapolated_seconds" in row else "",
            "" if row["memory_gib"] is None else f"{row['memory_gib']:.1f}",
            f"{row['bytes'] / 1e6:.0f}" if "bytes" in row else "",
        ]
        for row in sorted(rows, key=lambda row: FULL_SIZES.index(row["model"]))
    ]
    setup = rows[0]["setup"]
    return [
        "## Full size",
        "",
        f"SigLIPs of published sizes with random weights, {rows[0]['scheme']}, measured by "
        f"`benchmarks/siglip/full_size.py` on {conditions(setup)}. `extrapolated`: to the {PLANNED} iterations of the "
        "preset default, from the difference of a long and a short run.",
        "",
        *table(["model", "stage", "seconds", "extrapolated", "GPU: GiB", "MB written"], body, texts=2),
    ]


def _values(rows: list[Row], data: str, tower: str) -> list[float]:
    return [_value(row, data, tower) for row in rows]


def _value(row: Row, data: str, tower: str) -> float:
    result = row["results"][data]
    return float(result["float_top1"] if tower == "float" else result["top1"][tower])


def _float(row: Row) -> str:
    return " / ".join(f"{result['float_top1']:.2f}" for result in row["results"].values())


def _seeds(seeds: list[int]) -> str:
    if len(seeds) == 1:
        return f"seed {seeds[0]} alone"
    return f"mean over those of seeds {', '.join(map(str, seeds))} that were measured"


def _kind(kind: str) -> str:
    return RECONSTRUCTIONS.get(kind, kind)


def _chosen(rows: list[Row], **entries: object) -> list[Row]:
    return [row for row in rows if entries.items() <= row.items()]


if __name__ == "__main__":
    table_command(__doc__, page)
