"""Draws the pictures of docs/experiments.md from the files under results/.

python -m benchmarks.experiments.picture
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from statistics import median

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.common.tables import SCHEMES
from benchmarks.experiments.measured_rows import (
    BASE,
    DOMAINS,
    PHOTOGRAPHS,
    PHOTOGRAPHS_FOR_CALIBRATION,
    REAL,
    RESULTS,
    Row,
    curve_rows,
    difference,
    label,
    only,
    ordered,
    prompt_count,
    read_rows,
    read_seconds,
    select,
)
from benchmarks.inspection.figures import blank, styled, styles
from benchmarks.inspection.pictures import FOLDER, drawn, small_png

PRESET = {"images": "128", "iterations": "500"}
"""What the other grids have."""
METHODS = {"images": ("leaves", "d4c", PHOTOGRAPHS_FOR_CALIBRATION), "iterations": ("d4c",), "prompts": ("d4c",)}
MODELS = (("methods-4bit", "methods-8bit", "tiny-imagenet-val"), ("emoji-4bit", "emoji-8bit", "demo"))
"""Grids and the set that their models are judged on in the picture."""

Point = tuple[int, float, float, float]
"""A number, and the mean, the lowest and the highest accuracy over seeds."""


def points_of(rows: Sequence[Row], quantity: str, method: str, data: str) -> list[Point]:
    """A curve of the accuracy."""
    if quantity == "prompts":
        chosen = select(rows, grid="prompts", dataset=data)
        numbered = [(prompt_count(row), row) for row in chosen if row["method"] != "float"]
    else:
        chosen = select(curve_rows(list(rows), quantity, PRESET[quantity]), dataset=data, method=method)
        numbered = [(int(row[quantity]), row) for row in chosen]
    return sorted((n, float(row["mean"]), float(row["lowest"]), float(row["highest"])) for n, row in numbered)


def draw(axes: Axes, points: Sequence[Point], method: str) -> None:
    """A curve with its range over seeds."""
    color, marker = styles({})[method.partition(":")[0]]
    x, mean, low, high = np.array(points).T
    axes.plot(x, mean, color=color, marker=marker, markersize=4.5, linewidth=1, label=label(method))
    axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


@styled
def curves_figure(rows: Sequence[Row]) -> Figure:
    """Accuracy of bench-vit at W4A4 by images, iterations and prompts."""
    figure = blank(4.6)
    panels = figure.subplots(2, 3, sharey="row")
    for line, data in zip(panels, PHOTOGRAPHS, strict=True):
        for axes, (quantity, methods) in zip(line, METHODS.items(), strict=True):
            for method in methods:
                if points := points_of(rows, quantity, method, data):
                    draw(axes, points, method)
            numbers(axes)
        line[0].set_ylabel(f"{DOMAINS[data]}, top-1 %")
    for axes, name in zip(panels[1], METHODS, strict=True):
        axes.set_xlabel(name)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure


def numbers(axes: Axes) -> None:
    """A logarithmic axis with plain numbers."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")


@styled
def seconds_figure() -> Figure:
    """Seconds of the synthesis and of a quantization by images and by iterations, on a GPU that did nothing else."""
    rows = read_seconds()
    figure = blank(2.8)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, quantity, fixed in zip(panels, ("images", "iterations"), ("iterations", "images"), strict=True):
        own = [row for row in rows if row[fixed] == int(PRESET[fixed])]
        x = sorted({row[quantity] for row in own})
        for step, name, (color, marker) in (
            ("synthesis", "synthesis", styles({})["d4c"]),
            ("quantization", "GPTQ at W4A4", styles({})["pse"]),
        ):
            y = [median(row[step] for row in own if row[quantity] == value) for value in x]
            axes.plot(x, y, color=color, marker=marker, markersize=4.5, linewidth=1, label=name)
        numbers(axes)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel(f"{quantity} ({PRESET[fixed]} {fixed})")
    panels[0].set_ylabel("seconds")
    panels[0].legend()
    return figure


@styled
def leaves_figure(rows: Sequence[Row]) -> Figure:
    """How far each method is from dead leaves, for every model and scheme, with intervals."""
    figure = blank(6.4)
    panels = figure.subplots(2, 2, sharey=True).ravel()
    groups = [(select(rows, grid=grids, dataset=data), data) for *grids, data in MODELS]
    lines = [(own, model) for own, _ in groups for model in dict.fromkeys(row["model"] for row in own)]
    shown: dict[str, Artist] = {}
    for axes, scheme in zip(panels, SCHEMES, strict=True):
        axes.axvline(0, color="black", linewidth=0.8)
        for height, (own, model) in enumerate(lines):
            methods = [method for method in ordered(own) if method != BASE]
            for step, method in enumerate(methods):
                row = only(own, model=model, scheme=scheme, method=method)
                if (far := difference(own, row)) is None:
                    continue
                color, marker = styles({})[method.partition(":")[0]]
                y = height + 0.7 * (step / (len(methods) - 1) - 0.5)
                look = {"color": color, "marker": marker, "markersize": 4.5, "linewidth": 1}
                name = "real images" if method.startswith(REAL) else label(method)
                shown[name] = axes.errorbar(far.value, y, xerr=far.half, **look)[0]
        axes.set(title=scheme, yticks=range(len(lines)), yticklabels=[model for _, model in lines])
        axes.tick_params(axis="y", length=0)
    panels[0].invert_yaxis()
    for axes in panels[2:]:
        axes.set_xlabel("points beside dead leaves")
    figure.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=4)
    return figure


@styled
def maps_figure() -> Figure:
    """Every model's embeddings of all sets on their first two principal components."""
    maps = json.loads((RESULTS / "maps.json").read_text(encoding="utf-8"))
    figure = blank(2.6 * -(-len(maps) // 2) + 0.5)
    panels = figure.subplots(-(-len(maps) // 2), 2, squeeze=False).ravel()
    shown: dict[str, Artist] = {}
    for axes, (model, drawing) in zip(panels, maps.items(), strict=False):
        for name, points in drawing["points"].items():
            color, marker = styles({})[name]
            x, y = np.array(points).T
            shown[name] = axes.scatter(x, y, 9, color=color, marker=marker, linewidths=0.5, alpha=0.7)
        axes.set(xticks=[], yticks=[], title=f"{model}; {100 * drawing['share']:.0f} % of the variance")
    for axes in panels[len(maps) :]:
        axes.set_axis_off()
    figure.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=5)
    return figure


def main() -> None:
    rows = read_rows()
    if any(row["grid"].startswith(("images-", "iterations-", "prompts")) for row in rows):
        small_png(drawn(curves_figure(rows)), FOLDER / "experiments-curves.png")
    if read_seconds():
        small_png(drawn(seconds_figure()), FOLDER / "experiments-seconds.png")
    small_png(drawn(leaves_figure(rows)), FOLDER / "experiments-leaves.png")
    small_png(drawn(maps_figure()), FOLDER / "experiments-maps.png")


if __name__ == "__main__":
    main()
