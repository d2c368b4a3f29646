"""Draws the pictures of docs/experiments.md from the files under results/.

python -m benchmarks.experiments.picture
"""

from __future__ import annotations

import json
from collections.abc import Sequence

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
    PRESET,
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
    synthesis_seconds,
)
from benchmarks.inspection.figures import blank, styled, styles
from benchmarks.inspection.pictures import FOLDER, drawn, small_png

METHODS = {"images": ("leaves", "d4c", PHOTOGRAPHS_FOR_CALIBRATION), "iterations": ("d4c",), "prompts": ("d4c",)}
GRIDS = ("methods-4bit", "methods-8bit", "emoji-4bit", "emoji-8bit")
"""Of the methods on all models."""
REAL_IMAGES = "real images"
"""Photographs and emoji in one legend."""

Point = tuple[int, float, float, float]
"""A number, and an accuracy with its range: that over seeds, or of a single seed the 95 % interval over pictures."""


def points_of(rows: Sequence[Row], quantity: str, method: str, data: str) -> list[Point]:
    """A curve of the accuracy."""
    if quantity == "prompts":
        chosen = select(rows, grid="prompts", dataset=data)
        numbered = [(prompt_count(row), row) for row in chosen if row["method"] != "float"]
    else:
        chosen = select(curve_rows(list(rows), quantity), dataset=data, method=method)
        numbered = [(int(row[quantity]), row) for row in chosen]
    ends = [("lowest", "highest") if row["spread"] else ("low", "high") for _, row in numbered]
    return sorted(
        (n, float(row["mean"]), float(row[low]), float(row[high]))
        for (n, row), (low, high) in zip(numbered, ends, strict=True)
    )


def draw(axes: Axes, points: Sequence[Point], method: str) -> None:
    """A curve with its range."""
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
            curves = {method: points_of(rows, quantity, method, data) for method in methods}
            for method, points in curves.items():
                draw(axes, points, method)
            numbers(axes, sorted({point[0] for points in curves.values() for point in points}))
        line[0].set_ylabel(f"{DOMAINS[data]}, top-1 %")
    for axes, name in zip(panels[1], METHODS, strict=True):
        axes.set_xlabel(name)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure


def numbers(axes: Axes, measured: Sequence[int]) -> None:
    """A logarithmic axis with the numbers that were measured."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(measured, map(str, measured), fontsize=7)
    axes.minorticks_off()


@styled
def seconds_figure() -> Figure:
    """Seconds of D4C's synthesis by what was measured of images and iterations, on a GPU that did nothing else."""
    curves = {quantity: curve for quantity in PRESET if len(curve := synthesis_seconds(quantity)) > 1}
    figure = blank(2.6)
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    color, marker = styles({})["d4c"]
    for axes, (quantity, curve) in zip(panels, curves.items(), strict=True):
        axes.plot(list(curve), list(curve.values()), color=color, marker=marker, markersize=4.5, linewidth=1)
        axes.set_xlabel(quantity)
        axes.set(xlim=0, ylim=0)
    panels[0].set_ylabel("synthesis, seconds")
    return figure


@styled
def leaves_figure(rows: Sequence[Row]) -> Figure:
    """How far each method is from dead leaves on Tiny ImageNet, for every model and scheme, with intervals."""
    chosen = select(rows, grid=GRIDS, dataset=PHOTOGRAPHS[0])
    models = list(dict.fromkeys(row["model"] for row in chosen))
    figure = blank(6.4)
    panels = figure.subplots(2, 2, sharex=True, sharey=True).ravel()
    shown: dict[str, Artist] = {}
    for axes, scheme in zip(panels, SCHEMES, strict=True):
        axes.axvline(0, color="black", linewidth=0.8)
        for height, model in enumerate(models):
            own = select(chosen, model=model)
            methods = [method for method in ordered(own) if method != BASE]
            for step, method in enumerate(methods):
                row = only(own, scheme=scheme, method=method)
                if (far := difference(own, row)) is None:
                    continue
                color, marker = styles({})[method.partition(":")[0]]
                y = height + 0.7 * (step / (len(methods) - 1) - 0.5)
                look = {"color": color, "marker": marker, "markersize": 4.5, "linewidth": 1}
                name = REAL_IMAGES if method.startswith(REAL) else label(method)
                shown[name] = axes.errorbar(far.value, y, xerr=far.half, **look)[0]
        axes.set(title=scheme, yticks=range(len(models)), yticklabels=models)
        axes.tick_params(axis="y", length=0)
    panels[0].invert_yaxis()
    for axes in panels[2:]:
        axes.set_xlabel("points beside dead leaves")
    names = sorted(shown, key=[*map(label, ordered(chosen)), REAL_IMAGES].index)
    figure.legend([shown[name] for name in names], names, loc="outside lower center", ncols=3)
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
