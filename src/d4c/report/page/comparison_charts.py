"""The charts of a comparison: one for each model and dataset."""

from __future__ import annotations

from collections.abc import Sequence

from d4c.comparison.summary import SummaryRow
from d4c.comparison.tables import groups, name_of
from d4c.evaluation.metrics.intervals import Interval
from d4c.evaluation.metrics.record import FIGURES
from d4c.report.page.chart import Cell, Chart, Series, Table

COLUMNS = (
    "method",
    "scheme",
    "mean, %",
    "lowest",
    "highest",
    "95 % from",
    "95 % to",
    "change, points",
    "change from",
    "change to",
    "beside the first",
    "beside from",
    "beside to",
    "gap, %",
    "same, %",
    "synthesis, s",
    "quantization, s",
    "MB",
)


def comparison_charts(rows: Sequence[SummaryRow]) -> dict[str, Chart]:
    """Draw the leading figure of every combination, a chart for each model and dataset, under its title."""
    return {title: _chart(f"group-{i}", title, group) for i, (title, group) in enumerate(groups(rows).items())}


def _chart(key: str, title: str, group: Sequence[SummaryRow]) -> Chart:
    figure = FIGURES[group[0].figure]
    names = [name_of(row, group) for row in group]
    return Chart(
        key=key,
        kind="bar",
        title=f"Mean {figure}",
        summary="Every combination, the mean over its seeds.",
        labels=[name if _is_float(row) else f"{row.scheme}, {name}" for name, row in zip(names, group, strict=True)],
        series=[Series(f"{figure}, %", [row.mean for row in group], 0)],
        x=f"{figure}, %",
        y="",
        table=Table(title, COLUMNS, tuple(_cells(name, row) for name, row in zip(names, group, strict=True))),
    )


def _is_float(row: SummaryRow) -> bool:
    return row.scheme == row.method


def _cells(name: str, row: SummaryRow) -> tuple[Cell, ...]:
    return (
        name,
        "" if _is_float(row) else row.scheme,
        row.mean,
        row.lowest,
        row.highest,
        row.low,
        row.high,
        *_with_ends(row.change),
        *_with_ends(row.beside),
        None if row.gap is None else 100 * row.gap,
        row.same_class,
        row.synthesis_seconds,
        row.quantize_seconds,
        row.bytes / 1e6,
    )


def _with_ends(interval: Interval | None) -> tuple[Cell, Cell, Cell]:
    return (None, None, None) if interval is None else (interval.value, interval.low, interval.high)
