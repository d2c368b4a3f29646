"""The rows that `collect` wrote, and how tables and pictures choose and name them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from pathlib import Path
from statistics import mean, median, stdev

from benchmarks.common import rows as common

RESULTS = Path(__file__).parent / "results"
METHODS = {"noise": "noise", "pink": "pink noise", "leaves": "dead leaves", "bns": "bns", "pse": "pse", "d4c": "D4C"}
REAL = "real:"
BASE = "leaves"
"""What other methods are compared with: structure that asks nothing of the model."""
BY_SEED = "by_seed"
"""The column of the figures of all seeds, in their order."""
PHOTOGRAPHS = ("tiny-imagenet-val", "cifar10-test")
PHOTOGRAPHS_FOR_CALIBRATION = "real:tiny-imagenet-train"
DOMAINS = {"demo": "emoji", "tiny-imagenet-val": "Tiny ImageNet", "cifar10-test": "CIFAR-10"}
PRESET = {"images": 128, "iterations": 500}
"""What the other grids have."""
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Standard errors of a mean of so many seeds that 95 % lie within, on either side (Student's t)."""
Row = dict[str, str]


@dataclass(frozen=True)
class Difference:
    """Points beside dead leaves, and half of their 95 % interval."""

    value: float
    half: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval does not hold zero."""
        return abs(self.value) > self.half

    def __str__(self) -> str:
        return self.text(1)

    def text(self, digits: int) -> str:
        """The value and its interval, bold where it is clear."""
        text = with_range(f"{round(self.value, digits) + 0.0:+.{digits}f}", self.half, digits)
        return f"**{text}**" if self.is_clear else text


def with_range(value: str, half: float, digits: int = 1) -> str:
    """A figure and how far its range goes to either side, in one line."""
    return f"{value}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{half:.{digits}f}"


def read_rows() -> list[Row]:
    """The rows of grids of which more than the float models is measured."""
    with (RESULTS / "experiments.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    measured = {row["grid"] for row in rows if row["scheme"] != "float"}
    return [row for row in rows if row["grid"] in measured]


def select(rows: Iterable[Row], **wanted: str | Sequence[str]) -> list[Row]:
    """The rows whose columns have one of the values."""
    return [
        row
        for row in rows
        if all(row[name] in ((value,) if isinstance(value, str) else value) for name, value in wanted.items())
    ]


def only(rows: Iterable[Row], **wanted: str | Sequence[str]) -> Row | None:
    """The one row that is so, if it is measured."""
    matching = select(rows, **wanted)
    assert len(matching) <= 1, wanted
    return matching[0] if matching else None


def difference(rows: Iterable[Row], row: Row | None) -> Difference | None:
    """A row beside dead leaves.

    Over pictures the interval is that of the paired bootstrap of the means over seeds, over seeds Student's of the
    differences within each seed. The two halves are added as independent ones (MOVER, Zou and Donner 2008).
    """
    if row is None or not row["beside_value"]:
        return None
    pictures = (float(row["beside_high"]) - float(row["beside_low"])) / 2
    return Difference(float(row["beside_value"]), hypot(pictures, half_over_seeds(differences(rows, row))))


def mean_difference(rows: Sequence[Row], chosen: Sequence[Row]) -> Difference:
    """The mean of some rows beside dead leaves, with an interval over seeds alone: the pictures are the same."""
    of_seeds = [mean(seed) for seed in zip(*(differences(rows, row) for row in chosen), strict=True)]
    return Difference(mean(of_seeds), half_over_seeds(of_seeds))


def differences(rows: Iterable[Row], row: Row) -> list[float]:
    """Points beside dead leaves with each seed."""
    same = {name: row[name] for name in ("grid", "model", "dataset", "scheme", "track", "reconstruction")}
    base = only(rows, **same, method=BASE)
    assert base is not None
    own, others = (map(float, each[BY_SEED].split()) for each in (row, base))
    return [a - b for a, b in zip(own, others, strict=True)]


def half_over_seeds(values: Sequence[float]) -> float:
    """Half of the 95 % interval of a mean over seeds; nothing is known of a single one."""
    return STUDENT[len(values)] * stdev(values) / sqrt(len(values)) if len(values) > 1 else 0.0


def ordered(rows: Iterable[Row]) -> list[str]:
    """The methods of some rows: the known ones in their order, variants of prompts after their method, real last."""
    names = list(METHODS)
    methods = dict.fromkeys(row["method"] for row in rows if row["method"] != "float")
    return sorted(methods, key=lambda m: len(names) if m.startswith(REAL) else names.index(m.partition(":")[0]))


def label(method: str) -> str:
    """A method in a table or a legend."""
    if method.startswith(REAL):
        return {"demo": "real emoji"}.get(method.removeprefix(REAL), "photographs")
    name, colon, prompts = method.partition(":")
    return METHODS[name] + (f", prompts of {prompts}" if colon else "")


def curve_rows(rows: list[Row], quantity: str) -> list[Row]:
    """The grids of a number with the number in its column, and those of the grid of methods that belong to them."""
    preset = str(PRESET[quantity])
    chosen = [row | {quantity: row[quantity] or preset} for row in rows if row["grid"].startswith(f"{quantity}-")]
    base = select(rows, grid="methods-4bit", model="bench-vit", scheme=("W4A4", "float"))
    return chosen + [row | {quantity: preset} for row in base]


def prompt_count(row: Row) -> int:
    """Of how many prompts the images of a row of the grid of prompts are."""
    return int(row["method"].partition("nouns-")[2] or 180)


def synthesis_seconds(quantity: str) -> dict[int, float]:
    """Median seconds of D4C's synthesis by images or by iterations, on a GPU that did nothing else."""
    (fixed,) = (name for name in PRESET if name != quantity)
    rows = [row for row in read_seconds() if row[fixed] == PRESET[fixed]]
    values = sorted({row[quantity] for row in rows})
    return {value: median(row["synthesis"] for row in rows if row[quantity] == value) for value in values}


def read_seconds() -> list[common.Row]:
    """What `seconds` measured."""
    return common.read_rows(RESULTS / "seconds.jsonl")
