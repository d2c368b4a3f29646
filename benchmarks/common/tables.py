"""Tables in Markdown, and the command that writes them from measured rows."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.common.rows import Row, read_report, read_rows, write_text

SCHEMES = ("W8A8", "W4A8", "W6A6", "W4A4")
DATASETS = {"tiny-imagenet-val": "Tiny ImageNet", "cifar10-test": "CIFAR-10", "demo": "emoji pack"}
RECONSTRUCTIONS = {"none": "ranges only", "gptq": "GPTQ"}


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def head(names: Sequence[str], texts: int = 1) -> list[str]:
    """The two lines above a table's body; all columns but the first `texts` hold numbers."""
    return [line(names), line(["---"] * texts + ["---:"] * (len(names) - texts))]


def table(names: Sequence[str], body: Sequence[Sequence[str]], texts: int = 1) -> list[str]:
    """The lines of a table, and an empty one."""
    return [*head(names, texts), *map(line, body), ""]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean, and lowest to highest of several values."""
    if len(values) < 2:
        return "".join(f"{value:.{digits}f}" for value in values)
    return f"{mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def over_seeds(values: Sequence[float], seeds: int) -> str:
    """Mean and range over seeds, and how many there are where some of `seeds` are missing."""
    if not values:
        return ""
    count = "" if len(values) == seeds else f"{len(values)} of {seeds} seeds"
    if len(values) == 1:
        return f"{values[0]:.2f}" + (f" ({count})" if count else "")
    return f"{mean(values):.2f} ({min(values):.1f} to {max(values):.1f}{f'; {count}' if count else ''})"


def conditions(setup: dict[str, Any]) -> str:
    """Device and versions of a record of `benchmarks.common.records.setup`."""
    versions = ", ".join(f"{package} {number}" for package, number in setup["versions"].items())
    return f"{setup['device']}, {versions}"


def table_command(description: str | None, page: Callable[[list[Row]], str]) -> None:
    """A command that turns files of rows, .jsonl, into one page, by default beside the first file."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, nargs="+", help="files of lines of JSON")
    parser.add_argument("--out", type=Path, help="Markdown file to write; by default beside the first file")
    args = parser.parse_args()
    write_text(args.out or args.rows[0].with_suffix(".md"), page(read_rows(*args.rows)))


def report_command(description: str | None, page: Callable[[Row], str]) -> None:
    """A command that turns a report, .json, into a page beside it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="JSON file")
    args = parser.parse_args()
    write_text(args.report.with_suffix(".md"), page(read_report(args.report, {})))
