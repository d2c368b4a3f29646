"""Progress: who is told, and how parts of a job add up."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from d4c.progress import WHOLE, Interval, bar, parts, reporting


def test_a_function_of_the_callers_is_called_as_it_is() -> None:
    calls: list[tuple[int, int]] = []
    with reporting(lambda *call: calls.append(call), "work") as progress:
        progress(1, 3)
    assert calls == [(1, 3)]


@pytest.mark.parametrize("report", ["auto", None])
def test_nobody_is_told_where_nobody_looks(report: object, capfd: pytest.CaptureFixture[str]) -> None:
    with reporting(report, "work") as progress:  # type: ignore[arg-type]
        progress(1, 3)
    assert capfd.readouterr() == ("", "")


def test_a_terminal_shows_a_bar_unless_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    for report, shown in (("auto", True), (None, False)):
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        with reporting(report, "work") as progress:  # type: ignore[arg-type]
            progress(2, 5)
        assert ("40%" in stream.getvalue()) == shown


def test_a_bar_names_the_work_what_is_done_and_the_time_left() -> None:
    stream = io.StringIO()
    with bar("synthesize d4c", Console(file=stream, force_terminal=True, width=80)) as progress:
        progress(12, 48)
    shown = stream.getvalue()
    assert "synthesize d4c" in shown
    assert "25%" in shown
    assert "left" in shown


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 9))
def test_parts_of_a_job_count_up_without_a_gap(costs: list[int], steps: int) -> None:
    calls: list[tuple[int, int]] = []
    for progress in parts(lambda *call: calls.append(call), costs):
        for done in range(steps + 1):
            progress(done, steps)
    assert calls == sorted(calls)
    assert calls[0] == (0, WHOLE)
    assert calls[-1] == (WHOLE, WHOLE)


def test_a_part_of_a_part_is_a_part() -> None:
    calls: list[tuple[int, int]] = []
    _, second = parts(lambda *call: calls.append(call), [1, 1])
    first_half, _ = parts(second, [3, 3])
    for done in range(3):
        first_half(done, 2)
    assert calls == [(500, WHOLE), (625, WHOLE), (750, WHOLE)]


def test_an_interval_passes_when_its_seconds_have_passed() -> None:
    times = iter([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    interval = Interval(2.0, lambda: next(times))
    assert [interval.passed() for _ in range(5)] == [False, True, False, True, False]
