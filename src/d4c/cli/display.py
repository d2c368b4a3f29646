"""What the command line shows: results as tables of at most 80 columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from rich.console import Console, OverflowMethod
from rich.table import Table
from rich.text import Text

from d4c.cli.console import say_skipped, show
from d4c.evaluation.metrics.record import FIGURES
from d4c.printable import printable

if TYPE_CHECKING:
    from d4c.comparison.compare import Comparison
    from d4c.comparison.summary import SummaryRow
    from d4c.evaluation.evaluate_outputs import OutputFidelity
    from d4c.evaluation.metrics.intervals import Interval
    from d4c.evaluation.metrics.record import Metrics
    from d4c.inspection.report import Inspection
    from d4c.quantization.doctor.diagnosis import Diagnosis, TowerDiagnosis
    from d4c.quantization.sensitivity.measure import Sensitivity
    from d4c.quantization.sensitivity.tokens import TokenSensitivity
    from d4c.run.rows import RunResult

SHOWN = 20
"""Rows of a long table."""

METRICS = ("top-1 %", "top-5 %", "mAP %", "to text %", "to image %", "same class %", "cosine")
"""Headings of `metrics_cells`, of which a dataset fills two or one; the last two compare with the float model."""
SHORT = ("top1", "top5", "mean_average_precision", "text_recall1", "image_recall1")
"""The figures under the first of these headings."""


def print_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None, fold: bool = False
) -> None:
    """A table whose first column is text and whose others are numbers; a column without a number is left out.

    Where a terminal is too narrow, numbers and headings are broken into lines, or with `fold` the text.
    """
    kept = [i for i in range(len(headings)) if any(row[i] for row in rows)]
    gap = 2 if len(kept) < 6 else 1
    heading = None if title is None else _plain(title)
    table = Table(title=heading, title_justify="left", box=None, pad_edge=False, padding=(0, gap, 0, 0))
    overflow: OverflowMethod = "fold" if fold else "ellipsis"
    for i in kept:
        table.add_column(
            _plain(headings[i]), justify="right" if i else "left", no_wrap=bool(i) == fold, overflow=overflow
        )
    for row in rows:
        table.add_row(*(_plain(row[i]) for i in kept))
    Console().print(table)


def _plain(text: str) -> Text:
    """Text without markup, and without what a terminal would obey."""
    return Text(printable(text))


def metrics_cells(metrics: Metrics) -> list[str]:
    """Accuracy with 95 % intervals, and fidelity where it was measured."""
    fidelity = metrics.fidelity
    return [
        *(_interval(metrics.figures[name]) if name in metrics.figures else "" for name in SHORT),
        "" if fidelity is None else _interval(fidelity.same_class),
        "" if fidelity is None else f"{fidelity.cosine:.4f}",
    ]


def _interval(interval: Interval) -> str:
    # Whole numbers may round past the figure, which lies within its interval.
    low = min(round(interval.low), math.floor(round(interval.value, 1)))
    high = max(round(interval.high), math.ceil(round(interval.value, 1)))
    return f"{interval.value:.1f} ({low}-{high})"


def print_metrics(name: str, metrics: Metrics) -> None:
    """One model on one dataset."""
    title = f"{metrics.dataset}, {metrics.count} images, 95 % intervals"
    print_table(("model", *METRICS), [[name, *metrics_cells(metrics)]], title)
    for line in _details(metrics):
        show(line)
    say_skipped(metrics.skipped)


def print_outputs(name: str, fidelity: OutputFidelity) -> None:
    """The outputs of one tower beside those of the float tower."""
    what = "images" if fidelity.tower == "image" else "prompts"
    rows = [
        [output, *(f"{each.value:.4f} ({each.low:.4f}-{each.high:.4f})" for each in (cosine, centered))]
        for output, cosine, centered in (
            (output, cosine, fidelity.centered_cosine[output]) for output, cosine in fidelity.cosine.items()
        )
    ]
    title = f"{name}, {fidelity.tower} tower: {fidelity.dataset}, {fidelity.count} {what}, 95 % intervals"
    print_table(("output", "cosine", "centered cosine"), rows, title)
    say_skipped(fidelity.skipped)


def _details(metrics: Metrics) -> list[str]:
    """What the table leaves out, the difference to the float model first."""
    fidelity = metrics.fidelity
    lines = []
    if fidelity is not None:
        if (change := fidelity.change) is not None:
            ends = f"{change.low:+.2f} to {change.high:+.2f}"
            lines.append(f"change from float, points, paired: {change.value:+.2f} ({ends})")
        percents = {
            "image tower alone": fidelity.image_tower,
            "text tower alone": fidelity.text_tower,
            "nearest images kept": fidelity.neighbors,
            "heat map kept": fidelity.heat_map,
        }
        lines += [f"{title}, %: {_interval(figure)}" for title, figure in percents.items() if figure is not None]
        numbers = {"rank correlation of images": fidelity.rank_correlation, "cosine of patches": fidelity.patch_cosine}
        lines += [f"{title}: {value:.4f}" for title, value in numbers.items() if value is not None]
        lines.append(f"KL from float, nats: {fidelity.kl:.4f}")
    rest = [name for name in metrics.figures if name not in SHORT]
    return [*lines, *(f"{FIGURES[name]}, %: {_interval(metrics.figures[name])}" for name in rest)]


def print_run(result: RunResult) -> None:
    """The table of a run, its seconds, and where to look."""
    first = result.rows[0].metrics
    rows = [
        [
            row.name if row.scheme is None else f"{row.scheme}, {row.name}",
            *metrics_cells(row.metrics),
            f"{row.size / 1e6:.1f}",
        ]
        for row in result.rows
    ]
    title = f"{first.dataset}, {first.count} images, 95 % intervals; same class as the float model"
    print_table(("model", *METRICS, "MB"), rows, title)
    show("seconds: " + ", ".join(f"{name} {value:.1f}" for name, value in result.seconds.items()))
    say_skipped(first.skipped)
    show(f"artifact: {result.folder / 'artifact'}")
    show(f"contact sheet: {result.folder / 'synthesis' / 'contact_sheet.png'}")


def print_summary(rows: Sequence[SummaryRow]) -> None:
    """A table for each dataset and model, without what 80 columns have no place for."""
    from d4c.comparison.tables import COLUMNS, cells_of, groups

    for title, group in groups(rows).items():
        print_table(COLUMNS, [cells_of(row, group) for row in group], title, fold=True)


def print_paper_table(comparison: Comparison, specs: Mapping[str, str]) -> None:
    """Measured gains beside the published ones; what tells a line apart is in its first column."""
    from d4c.comparison.paper_table import HEAD, KEYS, paper_rows

    rows = [(", ".join(row[:KEYS]), *row[KEYS:]) for row in paper_rows(comparison, specs)]
    print_table((", ".join(HEAD[:KEYS]), *HEAD[KEYS:]), rows, "The published table", fold=True)


def print_inspection(inspection: Inspection) -> None:
    """One column for each set of images."""
    sets = inspection.summary()
    reference = inspection.reference
    chance = sets[reference]["expected_prompts"]
    show(f"{inspection.images} images of each set, {inspection.model}; ranges relative to {reference}")
    measures: dict[str, tuple[str, float, str]] = {
        f"nearest prompts (chance {chance:.0f})": ("nearest_prompts", 1, ".0f"),
        "recognized targets, %": ("recognized", 100, ".0f"),
        "KL from uniform, nats": ("kl", 1, ".2f"),
        f"1-NN tells it from {reference}, %": ("nearest_neighbor", 100, ".0f"),
        "range width, median layer": ("width", 1, ".2f"),
        "range overlap, median layer": ("overlap", 1, ".2f"),
        "range overlap, worst layer": ("worst_overlap", 1, ".2f"),
        "foreground-background contrast": ("fg_bg_contrast", 1, ".3f"),
        "foreground-background variance": ("fg_bg_variance", 1, ".4f"),
        "patch similarity entropy, nats": ("entropy", 1, ".2f"),
        "spectral slope (photographs -2)": ("slope", 1, ".1f"),
    }
    rows = []
    for title, (key, factor, form) in measures.items():
        cells = ["" if row[key] is None else f"{factor * row[key]:{form}}" for row in sets.values()]
        if any(cells):
            rows.append([title, *cells])
    print_table(("", *sets), rows)
    patches = inspection.sets[reference].structure.patches
    show(f"contrast, variance and entropy are of {patches} patches per image")
    for name, report in inspection.sets.items():
        show(f"{name}: {report.source}")


WORST = 3
"""Axes and layers of a tower that a diagnosis names."""


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """The worst axes and layers of each tower, and the findings with their advice."""
    show(f"{diagnosis.model} for {diagnosis.scheme}, on dead leaves and generic prompts")
    for tower in diagnosis.towers:
        print()
        headings = (f"{tower.name} tower: widest / narrowest channel", "as it is", "rewritten")
        print_table(headings, _spread_rows(tower))
        rows = [
            [layer.name, *(_decibels(layer.bits, layer.input_db)), *(_decibels(layer.weight_bits, layer.weight_db))]
            for layer in tower.layers[:WORST]
        ]
        print_table(("least signal to noise", "bits", "inputs", "bits", "weights"), rows)
    print()
    print_findings(diagnosis)


def print_findings(diagnosis: Diagnosis) -> None:
    """What was found with its advice, and the verdict."""
    findings = Table.grid(padding=(0, 1, 0, 0))
    for number, finding in enumerate(diagnosis.findings, 1):
        findings.add_row(f"{number}.", _plain(f"{finding.tower} tower: {finding.fact}"))
        findings.add_row("", _plain(f"-> {finding.advice}"))
    Console(highlight=False).print(findings)
    show(diagnosis.verdict)


def _spread_rows(tower: TowerDiagnosis) -> list[list[str]]:
    """The median axis, and the axes where the ratio is largest."""
    worst = sorted(tower.axes, key=lambda axis: -axis.before.ratio)[:WORST]
    groups = [(f"median of {len(tower.axes)} axes", tower.axes), *((axis.name, (axis,)) for axis in worst)]
    return [
        [name, *(f"{median(ratios):.1f}" for ratios in ([a.before.ratio for a in axes], [a.after.ratio for a in axes]))]
        for name, axes in groups
    ]


def _decibels(bits: int, ratio: float | None) -> list[str]:
    return ["", ""] if ratio is None else [str(bits), f"{ratio:.1f} dB"]


def print_sensitivity(costs: Sensitivity) -> None:
    """The costliest layers, and sums by tower and kind."""
    from d4c.quantization.sensitivity.measure import GROUPS

    ranked = costs.ranked()
    widths = sorted({bits for layer in ranked for bits in layer.by_width})
    show(f"{costs.model}, {costs.scheme}: divergence in 1/1000 nats of layers quantized alone")
    rows = []
    for layer in ranked[:SHOWN]:
        cells = [f"{1000 * layer.by_width[bits]:.2f}" if layer.by_width else "" for bits in widths]
        numbers = (f"{1000 * layer.alone:.2f}", *cells, f"{1000 * layer.recovery:.2f}")
        rows.append([layer.name, f"{layer.weights:,}", *numbers])
    print_table(("layer", "weights", "alone", *(f"W{bits}" for bits in widths), "recovery"), rows)
    show(f"{max(0, len(ranked) - SHOWN)} more layers cost less; --json and -o give all")
    for title, key in GROUPS.items():
        sums = [
            [name, f"{weights:,}", f"{1000 * alone:.2f}", f"{1000 * recovery:.2f}"]
            for name, (weights, alone, recovery) in costs.sums(key).items()
        ]
        print_table((title, "weights", "alone", "recovery"), sums, f"sums by {title}")
    towers = ", ".join(f"{tower} tower alone {1000 * value:.2f}" for tower, value in costs.towers.items())
    show(
        f"all layers quantized: {1000 * costs.divergence:.2f}; {towers}; {costs.images} images, {costs.prompts} prompts"
    )


def print_tokens(costs: TokenSensitivity) -> None:
    """One row for each kind of token."""
    apart = f", the class token in {costs.class_token_bits}" if costs.class_token_bits else ""
    show(f"{costs.model}, inputs of {costs.layer} in {costs.bits} bits{apart}: divergence in 1/1000 nats")
    rows = [
        [cost.token, f"{cost.per_sample:.1f}", f"{100 * cost.error:.1f}", f"{1000 * cost.alone:.3f}"]
        for cost in costs.tokens
    ]
    whole = ["all", f"{sum(cost.per_sample for cost in costs.tokens):.1f}", "100.0", f"{1000 * costs.divergence:.3f}"]
    print_table(("rounded", "per sample", "squared error, %", "divergence"), [*rows, whole])
    if costs.constant:
        show("begin of text is a constant here, which is not rounded")
    show(f"{costs.images} images, {costs.prompts} prompts")
