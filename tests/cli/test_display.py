"""Tables for people: what they hold, and that 80 columns are enough."""

from __future__ import annotations

import pytest

from d4c.cli.display import METRICS, _interval, metrics_cells, print_table
from d4c.comparison.tables import COLUMNS
from d4c.evaluation.metrics.intervals import Interval
from d4c.evaluation.metrics.record import Fidelity, Metrics

WIDEST = Interval(100.0, 100.0, 100.0)
TOPS = {"top1": WIDEST, "top5": WIDEST}
FIDELITY = Fidelity(-0.1234, 0.0, 0.0, WIDEST, 0.0)


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_the_widest_run_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = Metrics("demo", 496, TOPS, FIDELITY, 1.0)
    headings = ("model", "top-1 %", "top-5 %", "same class %", "cosine", "MB")
    print_table(("model", *METRICS, "MB"), [["W4A8, pgsi+scg", *metrics_cells(metrics), "1711.2"]], "a title")
    title, heads, row = capsys.readouterr().out.splitlines()
    assert title.strip() == "a title"
    assert all(heading in heads for heading in headings)
    assert row.split()[-1] == "1711.2"
    assert max(map(len, (heads, row))) <= 80


def test_the_widest_layers_fit_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    headings = ("layer", "weights", "alone", "W4", "W6", "W8", "recovery")
    print_table(headings, [["image.blocks.11.downsample.conv", "2,359,296", *5 * ["123.45"]]])
    heads, row = capsys.readouterr().out.splitlines()
    assert all(heading in heads for heading in headings)
    assert "image.blocks.11.downsample.conv" in row


def test_a_long_method_leaves_numbers_whole(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = ["W4A4", "46.1 (45.0 to 47.2)", "-3.1 (-4.0 to -2.2)", "100", "88.1"]
    print_table(COLUMNS, [["real:parquet:data/tiny-imagenet-train.parquet", *numbers]], fold=True)
    heads, row, *more = capsys.readouterr().out.splitlines()
    assert all(heading in heads for heading in COLUMNS)
    assert all(number in row for number in numbers)
    assert "".join(line.split()[0] for line in (row, *more)) == "real:parquet:data/tiny-imagenet-train.parquet"
    assert max(map(len, (heads, row, *more))) <= 80


def test_a_column_without_a_number_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    plain = Metrics("demo", 496, TOPS, None, 1.0)
    print_table(("model", *METRICS), [["a", *metrics_cells(plain)]])
    out = capsys.readouterr().out
    assert "top-5 %" in out
    assert "same class %" not in out
    assert "cosine" not in out
    both = [["a", *metrics_cells(plain)], ["b", *metrics_cells(Metrics("demo", 1, TOPS, FIDELITY, 1.0))]]
    print_table(("model", *METRICS), both)
    assert "same class %" in capsys.readouterr().out


def test_an_interval_in_whole_numbers_holds_its_figure() -> None:
    assert _interval(Interval(4.6, 4.55, 9.2)) == "4.6 (4-9)"
    assert _interval(Interval(70.2, 60.6, 70.4)) == "70.2 (61-71)"
    assert _interval(Interval(70.0, 69.6, 70.4)) == "70.0 (70-70)"
