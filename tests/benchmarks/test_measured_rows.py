"""Differences of the experiments beside dead leaves, over pictures and seeds."""

from __future__ import annotations

from math import hypot
from types import ModuleType

import pytest

COLUMNS = ("grid", "model", "dataset", "scheme", "track", "reconstruction")
SAME = dict.fromkeys(COLUMNS, "same")


@pytest.fixture(scope="module")
def measured() -> ModuleType:
    reason = "a source distribution has no benchmarks"
    module: ModuleType = pytest.importorskip("benchmarks.experiments.measured_rows", reason=reason)
    return module


def row(method: str, figures: list[float], beside: tuple[str, str, str] = ("", "", "")) -> dict[str, str]:
    ends = dict(zip(("beside_value", "beside_low", "beside_high"), beside, strict=True))
    return {**SAME, "method": method, "by_seed": " ".join(map(str, figures)), **ends}


@pytest.mark.parametrize(
    ("leaves", "d4c"),
    [
        pytest.param([50.0], [51.0], id="one seed"),
        pytest.param([50.0, 40.0, 60.0], [51.0, 41.0, 61.0], id="what all methods have in a seed cancels out"),
    ],
)
def test_seeds_that_say_the_same_leave_the_interval_over_pictures(
    measured: ModuleType, leaves: list[float], d4c: list[float]
) -> None:
    rows = [row("leaves", leaves), row("d4c", d4c, ("1.0", "0.6", "1.4"))]
    difference = measured.difference(rows, rows[1])
    assert difference.half == pytest.approx(0.4)
    assert str(difference) == "**+1.0\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}0.4**"


def test_seeds_that_differ_widen_it_by_students_interval(measured: ModuleType) -> None:
    stats = pytest.importorskip("scipy.stats")
    rows = [row("leaves", [50.0, 50.0, 50.0]), row("d4c", [50.0, 51.0, 52.0], ("1.0", "0.6", "1.4"))]
    difference = measured.difference(rows, rows[1])
    low, high = stats.t.interval(0.95, df=2, loc=1.0, scale=stats.sem([0.0, 1.0, 2.0]))
    assert difference.half == pytest.approx(hypot(0.4, (high - low) / 2), abs=1e-3)
    assert not difference.is_clear


def test_a_mean_of_several_differences_has_an_interval_over_seeds(measured: ModuleType) -> None:
    other = {"dataset": "other"}
    rows = [row("leaves", [50.0, 50.0]), row("d4c", [51.0, 52.0])]
    rows += [row("leaves", [60.0, 61.0]) | other, row("d4c", [60.0, 60.0]) | other]
    difference = measured.mean_difference(rows, [rows[1], rows[3]])
    assert (difference.value, difference.half) == (0.5, 0.0)
    alone = measured.mean_difference(rows, [rows[1]])
    assert alone.half == pytest.approx(measured.STUDENT[2] / 2)


def test_the_table_of_quantiles_is_that_of_students_distribution(measured: ModuleType) -> None:
    stats = pytest.importorskip("scipy.stats")
    for seeds, quantile in measured.STUDENT.items():
        assert quantile == pytest.approx(stats.t.ppf(0.975, seeds - 1), abs=1e-3)


def test_leaves_are_beside_nothing(measured: ModuleType) -> None:
    assert measured.difference([], row("leaves", [50.0])) is None
    assert measured.difference([], None) is None


def test_seeds_that_only_one_method_has_are_refused(measured: ModuleType) -> None:
    rows = [row("leaves", [50.0, 51.0]), row("d4c", [50.0], ("0.0", "-1.0", "1.0"))]
    with pytest.raises(ValueError, match="zip"):
        measured.difference(rows, rows[1])
