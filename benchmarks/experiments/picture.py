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

from benchmarks.experiments.table import DOMAINS, PHOTOGRAPHS, RESULTS, Row, label, read_rows, select
from benchmarks.inspection.figures import blank, styled, styles
from benchmarks.inspection.pictures import FOLDER, drawn, small_png

REAL = "real:tiny-imagenet-train"
BASE = {"images": "128", "iterations": "500"}
"""What the other grids have: the preset's own."""


def curve(rows: Sequence[Row], quantity: str, data: str) -> dict[str, list[tuple[int, float, float, float]]]:
    """Number, mean, lowest and highest of each method."""
    chosen = [row for row in rows if row["grid"].startswith(f"{quantity}-")]
    base = select(rows, grid="methods-4bit", model="bench-vit", scheme="W4A4")
    chosen += [row | {quantity: BASE[quantity]} for row in base]
    points: dict[str, list[tuple[int, float, float, float]]] = {}
    methods = ("leaves", "d4c", REAL) if quantity == "images" else ("d4c",)
    for row in select(chosen, dataset=data, method=methods):
        low, mean, high = (float(row[name]) for name in ("lowest", "mean", "highest"))
        points.setdefault(row["method"], []).append((int(row[quantity]), mean, low, high))
    return {method: sorted(of_method) for method, of_method in points.items()}


def prompts(rows: Sequence[Row], data: str) -> list[tuple[int, float, float, float]]:
    chosen = select(rows, grid="prompts", dataset=data)
    numbered = [(int(row["method"].partition("nouns-")[2] or 180), row) for row in chosen if row["method"] != "float"]
    return sorted((n, float(row["mean"]), float(row["lowest"]), float(row["highest"])) for n, row in numbered)


def draw(axes: Axes, points: Sequence[tuple[int, float, float, float]], method: str) -> None:
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
    for row, data in zip(panels, PHOTOGRAPHS, strict=True):
        for axes, quantity in zip(row, ("images", "iterations"), strict=False):
            for method, points in curve(rows, quantity, data).items():
                draw(axes, points, method)
        draw(row[2], prompts(rows, data), "d4c")
        row[0].set_ylabel(f"{DOMAINS[data]}, top-1 %")
        for axes in row:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:.0f}")
    for axes, name in zip(panels[1], ("images", "iterations", "prompts"), strict=True):
        axes.set_xlabel(name)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3)
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
    if any(row["grid"] == "prompts" for row in rows):
        small_png(drawn(curves_figure(rows)), FOLDER / "experiments-curves.png")
    small_png(drawn(maps_figure()), FOLDER / "experiments-maps.png")


if __name__ == "__main__":
    main()
