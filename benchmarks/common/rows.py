"""Results as files: a row for each cell of a table, written when it is measured, so that a second call resumes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from d4c.storage.files import atomic_file, write_json

Row = dict[str, Any]


def read_rows(*paths: Path) -> list[Row]:
    """The lines of JSON of some files; a file that does not exist has none."""
    return [json.loads(line) for path in paths if path.exists() for line in path.read_text().splitlines()]


def append_row(path: Path, row: Row) -> None:
    """Add a line of JSON in one write, which no other process can break up."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as stream:
        stream.write(json.dumps(row).encode() + b"\n")


def is_measured(cell: Row, rows: Iterable[Row]) -> bool:
    """Whether some row has all entries of a cell."""
    return any(cell.items() <= row.items() for row in rows)


def read_report(path: Path, empty: Row) -> Row:
    """A report in one JSON file, or `empty` where there is none yet."""
    return json.loads(path.read_text()) if path.exists() else empty


def write_report(path: Path, report: Row, page: Callable[[Row], str] | None = None) -> None:
    """Write a report as JSON, and its tables beside it as Markdown."""
    write_json(path, report)
    if page:
        write_text(path.with_suffix(".md"), page(report))


def write_text(path: Path, text: str) -> None:
    with atomic_file(path) as new:
        new.write_text(text, encoding="utf-8")


def top1_line(results: Mapping[str, Any]) -> str:
    """Accuracies of a cell in a line, to watch a run by."""
    return ", ".join(f"{data} {metrics['top1']['value']:.2f}" for data, metrics in results.items())
