"""How long work says how far it has come, and the bar that shows it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Literal

from d4c.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

Progress = Callable[[int, int], None]
"""Called with the steps done and their total: with 0 before the first one, and at least every two seconds from then on
unless a single step takes longer.

A step is whatever the work counts: iterations, stages, images."""

Report = Progress | Literal["auto"] | None
"""What a caller may ask for: a function of their own, "auto" for a bar where somebody can see it, None for silence."""


@contextmanager
def reporting(report: Report, title: str) -> Iterator[Progress]:
    """What a caller asked for as a function to call.

    Args:
        report: their own function; "auto" for a bar on stderr if that is a terminal or a notebook; None for nothing.
        title: what the bar is called.

    Yields:
        A function that takes the steps done and their total.
    """
    if report == "auto":
        from rich.console import Console

        console = Console(stderr=True)
        if console.is_terminal or (console.is_jupyter and find_spec("ipywidgets")):
            with bar(title, console) as progress:
                yield progress
            return
        report = None
    yield silent if report is None else report


@contextmanager
def bar(title: str, console: Console) -> Iterator[Progress]:
    """A bar on a console, with the share that is done, the time that has passed and the time that is left."""
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    left = TimeRemainingColumn(), TextColumn("left")
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        *left,
    )
    with Bars(*columns, console=console) as bars:
        task = bars.add_task(printable(title), total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def silent(_done: int, _total: int) -> None:
    """The progress of work that nobody watches."""


WHOLE = 1000
"""Steps of work that is made of pieces."""


def parts(progress: Progress, costs: Sequence[float]) -> list[Progress]:
    """The progress of each piece of longer work.

    Args:
        progress: that of the whole, which counts in thousandths, whatever the pieces count in.
        costs: about how long each piece takes, relative to the others.

    Returns:
        One function for each piece, which may be divided further.
    """
    ends = [0.0, *accumulate(costs)]
    return [_part(progress, start / ends[-1], stop / ends[-1]) for start, stop in pairwise(ends)]


def _part(progress: Progress, start: float, stop: float) -> Progress:
    return lambda done, steps: progress(round(WHOLE * (start + (stop - start) * done / max(steps, 1))), WHOLE)


class Interval:
    """Says when some time has passed, for what is not worth doing at each of many quick steps."""

    def __init__(self, seconds: float, clock: Callable[[], float] | None = None) -> None:
        self.seconds, self.clock = seconds, clock or time.monotonic
        self.last = self.clock()

    def passed(self) -> bool:
        """Whether `seconds` have passed since the start or since the last time that this was so."""
        now = self.clock()
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True
