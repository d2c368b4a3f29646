"""Still figures of an inspection, for pages that hold no scripts; `d4c inspect -o` draws charts of the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from d4c.inspection.activations import Fit
from d4c.inspection.coverage import Coverage
from d4c.inspection.embedding import Points
from d4c.inspection.spectrum import fit_band
from d4c.inspection.structure import Structure

P = ParamSpec("P")

WIDTH = 6.5
"""Width in inches; at 150 dots per inch a figure is readable on a page and on a phone."""

STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "figure.dpi": 150,
    "savefig.dpi": 150,
}

# Okabe and Ito's palette with three of Paul Tol's colors, which people with any color vision can tell apart; markers
# repeat the distinction. A method looks the same in every figure.
NAMED_STYLES = {
    "real": ("black", "o"),
    "noise": ("#999999", "x"),
    "pink": ("#CC79A7", "P"),
    "leaves": ("#009E73", "^"),
    "bns": ("#332288", "p"),
    "pse": ("#0072B2", "D"),
    "pgsi": ("#E69F00", "v"),
    "pgsi+scg": ("#56B4E9", "*"),
    "pgsi+pae": ("#882255", "h"),
    "d4c": ("#D55E00", "s"),
}
OTHER_STYLES = [("#999933", "<"), ("#0072B2", ">"), ("#D55E00", "d"), ("#CC79A7", "X"), ("#332288", "H")]


def styles(names: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return color and marker of each set: fixed for real images and methods, in rotation for other names."""
    others = [name for name in names if name not in NAMED_STYLES]
    return {**NAMED_STYLES, **{name: OTHER_STYLES[i % len(OTHER_STYLES)] for i, name in enumerate(others)}}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a drawing function in the common style, which matplotlib reads when parts of a figure are made."""

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


def blank(height: float) -> Figure:
    """Return an empty figure of a height in inches, without a window, laid out so that nothing overlaps."""
    figure = Figure((WIDTH, height), layout="constrained")
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(w_pad=0.06, h_pad=0.06)  # type: ignore[call-arg]
    return figure


@styled
def coverage_figure(sets: Mapping[str, Coverage]) -> Figure:
    """Draw histograms over prompts and images, and the number of prompts that are some image's nearest.

    Args:
        sets: Coverage of each set over the same prompts, by name.

    Returns:
        The figure; dashed lines mark the number of prompts for uniform draws.
    """
    figure = blank(1.4 + 0.6 * len(sets))
    left, middle, right = figure.subplots(1, 3, sharey=True)
    look = styles(sets)
    prompts = next(iter(sets.values())).prompts
    histograms(left, {name: measured.best_cosine for name, measured in sets.items()}, look)
    left.set(title="prompts", xlabel="cosine with\nnearest image")
    histograms(middle, {name: measured.kl for name, measured in sets.items()}, look)
    middle.axvline(np.log(prompts), color="black", linewidth=0.8, linestyle=":")
    middle.set(title="images", xlabel="KL of its prompts\nfrom uniform, nats")
    for row, (name, measured) in enumerate(sets.items()):
        right.barh(row, measured.nearest_prompts, 0.6, color=look[name][0])
        right.vlines(measured.expected_prompts, row - 0.4, row + 0.4, "black", linestyle="--", linewidth=1.2)
    right.set(title="coverage", xlabel=f"nearest prompts, of {prompts}\n(dashed: uniform draws)")
    right.set_yticks(range(len(sets)), list(sets))
    right.set_ylim(len(sets) - 0.4, -0.6)
    return figure


@styled
def structure_figure(sets: Mapping[str, Structure]) -> Figure:
    """Draw radial power spectra beside 1/f^2, and boxes of contrast, variance and entropy of patches over images.

    Args:
        sets: Structure of each set, by name.

    Returns:
        The figure.
    """
    figure = blank(4.0 + 1.1 + 0.5 * len(sets))
    spectrum, boxes = figure.subfigures(2, 1, squeeze=False, height_ratios=[4.0, 1.1 + 0.5 * len(sets)])[:, 0]
    top = spectrum.subplots()
    look = styles(sets)
    for name, measured in sets.items():
        color, marker = look[name]
        label = f"{name}, slope {np.mean(measured.slope):.1f}"
        top.loglog(
            measured.frequency, measured.power, color=color, marker=marker, markersize=4, markevery=3, label=label
        )
    anchor = sets.get("real") or next(iter(sets.values()))
    frequency = np.array(anchor.frequency)
    guide = 4 * anchor.power[0] * (frequency / frequency[0]) ** -2.0
    top.loglog(frequency, guide, color="black", linewidth=0.8, linestyle=":", label="1/f², slope -2")
    fitted = frequency[fit_band(torch.from_numpy(frequency))]
    top.axvspan(fitted[0], fitted[-1], color="#F2F2F2", zorder=0)
    top.set(xlabel="spatial frequency, cycles per image (gray: where slopes are fitted)", ylabel="power of brightness")
    top.legend(ncols=2, loc="lower left")
    panels = {
        "fg-bg contrast": {name: measured.contrast for name, measured in sets.items()},
        "fg-bg variance": {name: measured.variance for name, measured in sets.items()},
        "entropy, nats": {name: measured.entropy for name, measured in sets.items()},
    }
    for axes, (title, values) in zip(boxes.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
        box_plots(axes, values, look)
        axes.set_xlabel(title)
    boxes.suptitle(f"similarity of {anchor.patches} patches; box: middle half of the images", fontsize=10)
    return figure


@styled
def embedding_figure(points: Mapping[str, Points]) -> Figure:
    """Draw the map of all images."""
    figure = blank(6.0)
    axes = figure.subplots()
    look = styles(points)
    for name, part in points.items():
        x, y = np.array(part).T
        axes.scatter(x, y, 22, color=look[name][0], marker=look[name][1], linewidths=0.8, alpha=0.8, label=name)
    axes.set(xlabel="first principal component", ylabel="second")
    axes.set_title("image embeddings")
    figure.legend(loc="outside lower center", ncols=5)
    return figure


@styled
def activations_figure(sets: Mapping[str, Mapping[str, Fit]], reference: str) -> Figure:
    """Draw width and overlap of activation ranges relative to the reference, layer by layer.

    Args:
        sets: Fit of each set at each layer, by name.
        reference: Name of the reference, which is not drawn.

    Returns:
        The figure.
    """
    shown = {name: fits for name, fits in sets.items() if name != reference}
    layers = list(next(iter(shown.values())))
    height = min(9.0, 1.6 + 0.19 * len(layers))
    every = -(-len(layers) // int((height - 1.6) / 0.18))
    figure = blank(height)
    left, right = figure.subplots(1, 2, sharey=True)
    for name, fits in shown.items():
        color, marker = styles(sets)[name]
        rows = [layers.index(layer) for layer in fits]
        look: dict[str, Any] = {"color": color, "marker": marker, "markersize": 4.5, "linewidth": 0.7}
        left.plot([fit.width for fit in fits.values()], rows, label=name, **look)
        right.plot([fit.overlap for fit in fits.values()], rows, **look)
    left.axvline(1, color="black", linewidth=0.8, linestyle=":")
    left.set_xscale("log", base=2)
    left.xaxis.set_major_locator(LogLocator(2, subs=(1, 2**0.5)))
    left.xaxis.set_major_formatter("{x:.2g}")
    left.set_xlabel(f"width of range / width on {reference}")
    right.set_xlabel(f"overlap with range on {reference}")
    right.set_xlim(0, 1.02)
    left.set_yticks(range(0, len(layers), every), [layer.removeprefix("image.") for layer in layers[::every]])
    left.set_ylim(len(layers) - 0.5, -0.5)
    for axes in (left, right):
        axes.grid(axis="y", linewidth=0.4, color="#DDDDDD")
    figure.legend(loc="outside upper center", ncols=5)
    return figure


def histograms(axes: Axes, values: Mapping[str, tuple[float, ...]], look: Mapping[str, tuple[str, str]]) -> None:
    """Draw the histogram of each set in its own row, over common bins, each as high as its row."""
    pooled = np.concatenate([np.array(part) for part in values.values()])
    bins = np.linspace(pooled.min(), pooled.max(), 25)
    for row, (name, part) in enumerate(values.items()):
        counts, _ = np.histogram(part, bins)
        axes.stairs(row + 0.3 - 0.75 * counts / counts.max(), bins, baseline=row + 0.3, fill=True, color=look[name][0])


def box_plots(axes: Axes, values: Mapping[str, tuple[float, ...]], look: Mapping[str, tuple[str, str]]) -> None:
    """Draw a horizontal box per set: median, middle half, and the range from 5 % to 95 %."""
    drawn = axes.boxplot(
        list(values.values()),
        orientation="horizontal",
        whis=(5, 95),
        showfliers=False,
        widths=0.6,
        patch_artist=True,
        tick_labels=list(values),
    )
    for box, median, name in zip(drawn["boxes"], drawn["medians"], values, strict=True):
        box.set(facecolor=look[name][0], alpha=0.6)
        median.set(color="black", linewidth=1.6)
    axes.set_ylim(len(values) + 0.5, 0.5)
