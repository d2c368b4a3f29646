"""What goes to stderr: progress, notes, warnings and errors, as much of it as was asked for."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console

from d4c.picture_files import skipped_summary
from d4c.printable import printable
from d4c.progress import Progress, bar, silent

errors = Console(stderr=True)


class Amount:
    """How much is said: with `quiet` only errors, with `verbose` also settings and the trace of an error."""

    quiet = False
    verbose = False


def say(sentence: str, style: str | None = None) -> None:
    """Print a line on stderr, however long; what a terminal would obey in it is replaced."""
    errors.print(printable(sentence), style=style, markup=False, highlight=False, soft_wrap=True)


def show(sentence: str) -> None:
    """Print a line of the result on stdout; what a terminal would obey in it is replaced."""
    print(printable(sentence))


def note(sentence: str) -> None:
    """Print lines that only `--verbose` shows."""
    if Amount.verbose:
        for line in sentence.splitlines():
            say(line)


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar on stderr, or one line where that is not a terminal; the value takes what is done and the total."""
    if Amount.quiet or not errors.is_terminal:
        if not Amount.quiet:
            say(f"{title} ...")
        yield silent
        return
    with bar(title, errors) as report:
        yield report


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Show warnings as sentences without the line of code that they come from."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not Amount.quiet:
            say(f"warning: {message}", "yellow")

    with warnings.catch_warnings():
        warnings.showwarning = show
        # Memory is kept for large pictures; beyond Pillow's limit they are refused all the same.
        warnings.filterwarnings("ignore", "Image size .* could be decompression bomb")
        yield


def say_skipped(reasons: Collection[str]) -> None:
    """Print how many pictures were skipped, and the first of them with the reason."""
    for line in skipped_summary(reasons):
        say(line)


def show_error(sentence: str) -> None:
    """Print why a command failed, with `--verbose` after the trace of it."""
    note(traceback.format_exc())
    say(f"error: {sentence}", "red")
