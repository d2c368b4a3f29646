"""What the command line shows: progress bars, and results as tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from d4c.progress import Progress, bar, silent

if TYPE_CHECKING:
    from d4c.evaluation.metrics import Metrics
    from d4c.inspection.report import Inspection
    from d4c.quantization.sensitivity.measure import Sensitivity
    from d4c.run import RunResult

errors = Console(stderr=True)
SHOWN = 20
"""Rows of a long table."""


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar on stderr, or one line where that is no terminal; the value takes what is done and the total."""
    if not errors.is_terminal:
        errors.print(f"{title} ...", markup=False, highlight=False)
        yield silent
        return
    with bar(title, errors) as report:
        yield report


def metrics_table(title: str) -> Table:
    """An empty table for rows of `metrics_cells`."""
    table = Table(title=title)
    for column in ("model", "top-1 %", "top-5 %", "agreement %", "cosine"):
        table.add_column(column, justify="left" if column == "model" else "right")
    return table


def metrics_cells(name: str, metrics: Metrics) -> list[str]:
    """Accuracy with 95 % intervals, and fidelity where it was measured."""
    fidelity = metrics.fidelity
    return [
        name,
        _interval(metrics.top1),
        _interval(metrics.top5),
        "" if fidelity is None else _interval(fidelity.agreement),
        "" if fidelity is None else f"{fidelity.cosine:.4f}",
    ]


def _interval(interval: Any) -> str:
    return f"{interval.value:.1f} ({interval.low:.0f}-{interval.high:.0f})"


def print_run(result: RunResult, scheme: str) -> None:
    """The table of a run, its seconds, and where to look."""
    first = result.rows[0].metrics
    table = metrics_table(f"{first.dataset}, {first.count} images, 95 % intervals")
    table.add_column("MB", justify="right")
    for row in result.rows:
        name = row.name if row.name == "float" else f"{scheme}, {row.name}"
        table.add_row(*metrics_cells(name, row.metrics), f"{row.size / 1e6:.1f}")
    Console().print(table)
    spent = ", ".join(f"{name} {value:.1f}" for name, value in result.seconds.items())
    print(f"seconds: {spent}")
    print(f"artifact: {result.folder / 'artifact'}")
    sheet = result.folder / "synthesis" / "contact_sheet.png"
    print(f"contact sheet: {sheet}")


def print_inspection(found: Inspection) -> None:
    """One row a set of images, in two tables that fit a terminal."""
    rows = found.summary()
    chance = rows[found.reference]["expected_prompts"]
    print(f"{found.images} images of each set, {found.model}; ranges relative to {found.reference}")
    tables: list[dict[str, tuple[str, float, str]]] = [
        {
            f"nearest prompts (chance {chance:.0f})": ("nearest_prompts", 1, ".0f"),
            "recognized targets, %": ("recognized", 100, ".0f"),
            "KL from uniform, nats": ("kl", 1, ".2f"),
            f"1-NN tells it from {found.reference}, %": ("nearest_neighbor", 100, ".0f"),
            "range width, median layer": ("width", 1, ".2f"),
            "range overlap, median layer": ("overlap", 1, ".2f"),
            "range overlap, worst layer": ("worst_overlap", 1, ".2f"),
        },
        {
            "foreground-background contrast": ("fg_bg_contrast", 1, ".3f"),
            "foreground-background variance": ("fg_bg_variance", 1, ".4f"),
            "patch similarity entropy, nats": ("entropy", 1, ".2f"),
            "spectral slope (photographs -2)": ("slope", 1, ".1f"),
        },
    ]
    for columns in tables:
        table = Table()
        table.add_column("set", no_wrap=True)
        for title in columns:
            table.add_column(title, justify="right")
        for name, row in rows.items():
            numbers = (
                ("" if row[key] is None else f"{factor * row[key]:{form}}") for key, factor, form in columns.values()
            )
            table.add_row(name, *numbers)
        Console().print(table)
    patches = found.sets[found.reference].structure.patches
    print(f"contrast, variance and entropy are of {patches} patches an image")
    for name, report in found.sets.items():
        print(f"{name}: {report.source}")


def print_sensitivity(found: Sensitivity) -> None:
    """The costliest layers, and sums by tower and kind."""
    from d4c.quantization.sensitivity.measure import GROUPS

    ranked = found.ranked()
    widths = sorted({bits for layer in ranked for bits in layer.by_width})
    print(f"{found.model}, {found.scheme}: divergence in 1/1000 nats of layers quantized alone")
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("layer", no_wrap=True)
    for title in ("weights", "alone", *(f"W{bits}" for bits in widths), "recovery"):
        table.add_column(title, justify="right", no_wrap=True)
    for layer in ranked[:SHOWN]:
        cells = [f"{1000 * layer.by_width[bits]:.2f}" if layer.by_width else "" for bits in widths]
        numbers = (f"{1000 * layer.alone:.2f}", *cells, f"{1000 * layer.recovery:.2f}")
        table.add_row(layer.name, f"{layer.weights:,}", *numbers)
    Console().print(table)
    print(f"{max(0, len(ranked) - SHOWN)} more layers cost less; --json and -o give all")
    for title, key in GROUPS.items():
        sums = Table(title=f"sums by {title}", title_justify="left", box=None, pad_edge=False)
        for column in (title, "weights", "alone", "recovery"):
            sums.add_column(column, justify="left" if column == title else "right")
        for name, (weights, alone, recovery) in found.sums(key).items():
            sums.add_row(name, f"{weights:,}", f"{1000 * alone:.2f}", f"{1000 * recovery:.2f}")
        Console().print(sums)
    towers = ", ".join(f"{tower} tower alone {1000 * value:.2f}" for tower, value in found.towers.items())
    print(
        f"all layers quantized: {1000 * found.divergence:.2f}; {towers}; {found.images} images, {found.prompts} prompts"
    )
