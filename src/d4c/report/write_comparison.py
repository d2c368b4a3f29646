"""`write_comparison`: one HTML file about a finished comparison."""

from __future__ import annotations

from pathlib import Path

from d4c.comparison.compare import CONFIG, load_comparison
from d4c.comparison.summary import SummaryRow, summary
from d4c.report.measures.repeat import how_to_compare_again
from d4c.report.page.render import render_comparison
from d4c.run.rows import REPORT
from d4c.storage.files import atomic_file
from d4c.storage.outputs import PAGE, check_output_file


def is_comparison(folder: Path) -> bool:
    """Whether `d4c compare` wrote this folder."""
    return (folder / CONFIG).is_file()


def write_comparison(folder: Path, output: Path | None = None) -> tuple[Path, list[SummaryRow]]:
    """Write the report of a comparison, which computes nothing but means and intervals.

    Args:
        folder: Folder that `d4c compare` wrote.
        output: The file; by default report.html in the folder.

    Returns:
        The file, and the rows that it shows.

    Raises:
        ArtifactError: The comparison is not finished, or is damaged.
    """
    file = folder / REPORT if output is None else output
    check_output_file(file, PAGE)
    comparison = load_comparison(folder)
    rows = summary(comparison)
    page = render_comparison(rows, how_to_compare_again(comparison))
    with atomic_file(file) as new:
        new.write_text(page, encoding="utf-8", errors="backslashreplace")
    return file, rows
