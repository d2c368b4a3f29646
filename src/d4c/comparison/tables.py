"""The summary of a comparison as Parquet, CSV and Markdown."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from d4c.comparison.config import short_name
from d4c.comparison.summary import SummaryRow
from d4c.evaluation.metrics.intervals import Interval
from d4c.evaluation.metrics.record import FIGURES
from d4c.storage.files import atomic_file

NAME = "summary"
COLUMNS = ("method", "scheme", "mean (range)", "change from float", "gap %", "same %")
"""Headings of a table of one model on one dataset."""
MORE = ("95 % over images", "beside the first", "synthesis s", "quantization s", "MB")
"""Headings that follow in files, which are wider than a terminal."""


def write_tables(rows: Sequence[SummaryRow], folder: Path) -> None:
    """Write summary.parquet, summary.csv and summary.md into a folder, each of them whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [row.to_dict() for row in rows]
    with atomic_file(folder / f"{NAME}.parquet") as new:
        pq.write_table(pa.Table.from_pylist(records), new)
    with atomic_file(folder / f"{NAME}.csv") as new, new.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, records[0].keys())
        writer.writeheader()
        writer.writerows(records)
    with atomic_file(folder / f"{NAME}.md") as new:
        new.write_text(markdown(rows), encoding="utf-8")


def markdown(rows: Sequence[SummaryRow]) -> str:
    """A table for each dataset and model."""
    parts = []
    for title, group in groups(rows).items():
        head = [*COLUMNS, *MORE]
        body = [[*cells_of(row, group), _ends(row), points(row.beside), *_costs(row)] for row in group]
        lines = [head, ["---"] * len(head), *body]
        parts.append(f"## {title}\n\n" + "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines))
    return "\n\n".join(["# Comparison", NOTE, *parts]) + "\n"


NOTE = """Means over seeds, in percent. Differences are in points, paired by image, with 95 % intervals over images:
*change* to the float model, *beside the first* to the method that the grid names first. *gap* is the share of the way
from noise to real images. The interval of a mean over images is that of the first seed."""


def groups(rows: Sequence[SummaryRow]) -> dict[str, list[SummaryRow]]:
    """Rows by dataset and model, under a title."""
    grouped: dict[str, list[SummaryRow]] = {}
    for row in rows:
        title = f"{row.model} on {row.dataset}: {FIGURES[row.figure]} of {row.count} images"
        grouped.setdefault(title, []).append(row)
    return grouped


def cells_of(row: SummaryRow, group: Sequence[SummaryRow]) -> list[str]:
    """The columns of `COLUMNS`; the method is named with the settings that differ within its group."""
    spread = "" if row.seeds == 1 else f" ({row.lowest:.1f} to {row.highest:.1f})"
    return [
        name_of(row, group),
        "" if row.scheme == row.method else row.scheme,
        f"{row.mean:.1f}{spread}",
        points(row.change),
        "" if row.gap is None else f"{100 * row.gap:.0f}",
        "" if row.same_class is None else f"{row.same_class:.1f}",
    ]


def name_of(row: SummaryRow, group: Sequence[SummaryRow]) -> str:
    """The method, short where that tells it apart, and those of track, reconstruction and towers that differ."""
    quantized = [other for other in group if other.scheme != other.method]
    settings = ("track", "reconstruction", "towers")
    varied = [name for name in settings if len({getattr(other, name) for other in quantized}) > 1]
    if row.scheme == row.method:
        return row.method
    short = short_name(row.method)
    namesakes = {other.method for other in quantized if short_name(other.method) == short}
    return ", ".join([short if len(namesakes) == 1 else row.method, *(str(getattr(row, name)) for name in varied)])


def points(interval: Interval | None) -> str:
    """A difference with its interval."""
    return "" if interval is None else f"{interval.value:+.1f} ({interval.low:+.1f} to {interval.high:+.1f})"


def _ends(row: SummaryRow) -> str:
    """The interval of the figure itself over images."""
    return f"{row.low:.1f} to {row.high:.1f}"


def _costs(row: SummaryRow) -> list[str]:
    seconds = (row.synthesis_seconds, row.quantize_seconds)
    return [*("" if value is None else f"{value:.1f}" for value in seconds), f"{row.bytes / 1e6:.1f}"]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
