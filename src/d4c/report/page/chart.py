"""`Chart` and `Table`: what a report draws, as plain data that the page's script turns into Chart.js charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Cell = str | float | int | None


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers.

    Attributes:
        caption: What the table is about, for screen readers.
        columns: Headings; the first column names the row.
        rows: Cells; None is shown as an empty cell.
        digits: Decimals of numbers that are not whole; by default as many as four significant digits take.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    digits: int | None = None

    def shown(self, cell: Cell) -> str:
        """A cell as text."""
        if cell is None:
            return ""
        if isinstance(cell, float):
            return f"{cell:#.4g}".rstrip(".") if self.digits is None else f"{cell:,.{self.digits}f}"
        return f"{cell:,}" if isinstance(cell, int) else cell


@dataclass(frozen=True)
class Series:
    """One line, set of bars or cloud of points.

    Attributes:
        name: What the legend calls it.
        values: One number per label, or points (x, y); None leaves a gap.
        color: Index of its color; equal colors belong together.
        dashed: Whether its line is dashed.
        notes: What is said about each point beside its numbers; empty for nothing.
    """

    name: str
    values: Sequence[float | None] | Sequence[tuple[float, float]]
    color: int
    dashed: bool = False
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Chart:
    """A chart with the table behind it.

    Attributes:
        key: Unique name within the page, letters and dashes.
        kind: What is drawn.
        title: What it shows, in a few words.
        summary: What to see in it, in a sentence or two.
        labels: What each value stands for; empty for points.
        series: What is drawn.
        x: Title of the horizontal axis.
        y: Title of the vertical axis.
        log: Which axes are logarithmic.
        table: The numbers.
    """

    key: str
    kind: Literal["line", "bar", "points"]
    title: str
    summary: str
    labels: Sequence[str]
    series: Sequence[Series]
    x: str
    y: str
    table: Table
    log: Literal["", "x", "y", "xy"] = ""

    def data(self) -> dict[str, Any]:
        """What the page's script reads; JSON-ready, with few digits since there are many numbers."""
        return {
            "kind": self.kind,
            "labels": list(self.labels),
            "x": self.x,
            "y": self.y,
            "log": self.log,
            "series": [
                {
                    "name": each.name,
                    "values": [_short(value) for value in each.values],
                    "color": each.color,
                    "dashed": each.dashed,
                    "notes": list(each.notes),
                }
                for each in self.series
            ],
        }


def _short(value: float | tuple[float, float] | None) -> Any:
    if isinstance(value, tuple):
        return [_short(part) for part in value]
    return None if value is None else float(f"{value:.4g}")
