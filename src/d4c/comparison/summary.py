"""What a grid says: a row for each combination, over its seeds, with differences paired by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d4c.comparison.compare import Comparison
from d4c.comparison.config import REAL, Cell
from d4c.comparison.store import ADVICE
from d4c.errors import ArtifactError
from d4c.evaluation.metrics.intervals import Interval, bootstrap, mean_of, unchanged
from d4c.evaluation.metrics.record import Metrics

NOISE = "noise"
Result = dict[str, Any]


@dataclass(frozen=True)
class SummaryRow:
    """One combination on one dataset; figures are in percent, differences in points.

    Args:
        dataset: Its spec.
        figure: Name of the leading figure, one of `FIGURES`.
        model: Name of the model.
        method: Where calibration images came from; "float" for the float model.
        scheme: Bits, or "float".
        track: Track of the quantization.
        reconstruction: What was learned or solved.
        towers: Which towers are quantized.
        seeds: Number of seeds.
        count: Images of the dataset.
        mean: Of the leading figure over seeds.
        lowest: Over seeds.
        highest: Over seeds.
        spread: Standard deviation over seeds, with several.
        low: Lower end of the figure's 95 % interval over images, of the first seed.
        high: Upper end likewise.
        gap: Share of the way from noise to real images that the mean has come, if both are in the grid.
        change: Mean difference to float over images, each image with its mean over seeds.
        beside: The same to the first method of the grid.
        same_class: How often the class is that of float, mean over seeds.
        cosine: With float embeddings, mean over seeds.
        synthesis_seconds: Mean over seeds.
        quantize_seconds: Mean over seeds.
        bytes: Of the weights of the artifact.
    """

    dataset: str
    figure: str
    model: str
    method: str
    scheme: str
    track: str
    reconstruction: str
    towers: str
    seeds: int
    count: int
    mean: float
    lowest: float
    highest: float
    spread: float | None
    low: float
    high: float
    gap: float | None
    change: Interval | None
    beside: Interval | None
    same_class: float | None
    cosine: float | None
    synthesis_seconds: float | None
    quantize_seconds: float | None
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Flat and JSON-ready: the intervals as three columns each."""
        data = dict(vars(self))
        for name in ("change", "beside"):
            interval: Interval | None = data.pop(name)
            for end in ("value", "low", "high"):
                data[f"{name}_{end}"] = None if interval is None else getattr(interval, end)
        return data


def summary(comparison: Comparison) -> list[SummaryRow]:
    """Summarize a comparison: for each dataset and model the float row, and then all combinations in their order."""
    groups = by_combination(comparison)
    rows = []
    for spec in comparison.config.datasets:
        rows += [_row(cell, results, spec, groups, comparison.config.methods) for cell, results in groups.items()]
    return rows


def by_combination(comparison: Comparison) -> dict[Cell, list[Result]]:
    """Results of all seeds by their cell with seed 0, without those that a method cannot serve."""
    groups: dict[Cell, list[Result]] = {}
    for cell, result in comparison.results.items():
        if "unfit" not in result:
            groups.setdefault(with_method(cell, cell.method), []).append(result)
    return groups


def with_method(cell: Cell, method: str) -> Cell:
    """The same combination with another method, and seed 0."""
    return Cell(cell.model, method, 0, cell.scheme, cell.track, cell.reconstruction, cell.towers)


def _row(
    cell: Cell, results: list[Result], spec: str, groups: dict[Cell, list[Result]], methods: Sequence[str]
) -> SummaryRow:
    metrics = [Metrics.from_dict(result["results"][spec]["metrics"]) for result in results]
    figure = metrics[0].leading
    values = [each.figures[figure].value for each in metrics]
    fidelities = [each.fidelity for each in metrics if each.fidelity is not None]
    first = groups.get(with_method(cell, methods[0]), [])
    return SummaryRow(
        dataset=spec,
        figure=figure,
        model=cell.model,
        method=cell.method,
        scheme=cell.scheme,
        track=cell.track,
        reconstruction=cell.reconstruction,
        towers=cell.towers,
        seeds=len(values),
        count=metrics[0].count,
        mean=mean(values),
        lowest=min(values),
        highest=max(values),
        spread=stdev(values) if len(values) > 1 else None,
        low=metrics[0].figures[figure].low,
        high=metrics[0].figures[figure].high,
        gap=_gap(cell, spec, figure, groups, methods, mean(values)),
        change=None if cell.is_float else paired(results, groups[Cell(cell.model)], spec),
        beside=None if cell.method == methods[0] else paired(results, first, spec),
        same_class=mean(each.same_class.value for each in fidelities) if fidelities else None,
        cosine=mean(each.cosine for each in fidelities) if fidelities else None,
        synthesis_seconds=_seconds(results, "synthesize"),
        quantize_seconds=_seconds(results, "quantize"),
        bytes=int(results[0]["bytes"]),
    )


def _gap(
    cell: Cell, spec: str, figure: str, groups: dict[Cell, list[Result]], methods: Sequence[str], value: float
) -> float | None:
    """The share of the way from noise to the first real images."""
    real = next((method for method in methods if method.startswith(REAL)), None)
    ends = [groups.get(with_method(cell, method), []) for method in (NOISE, real or "")]
    if cell.is_float or not all(ends):
        return None
    low, high = (mean(r["results"][spec]["metrics"][figure]["value"] for r in results) for results in ends)
    return (value - low) / (high - low) if high != low else None


def _share_of_seeds(results: list[Result], spec: str) -> NDArray[np.float64] | None:
    """In how many of 100 seeds each image counts for the leading figure; None where that is no share of images."""
    texts = [result["results"][spec]["hits"] for result in results]
    if not texts or None in texts:
        return None
    count = results[0]["results"][spec]["metrics"]["count"]
    try:
        bits = [np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=count) for text in texts]
    except ValueError:
        raise ArtifactError(f"The hits of a cell on {spec} are not hex digits; {ADVICE}.") from None
    return 100 * np.mean(bits, axis=0)


def paired(results: list[Result], others: list[Result], spec: str) -> Interval | None:
    """The mean difference in points between two combinations over the images of a dataset, if they tell of images."""
    own, other = _share_of_seeds(results, spec), _share_of_seeds(others, spec)
    if own is None or other is None or len(own) != len(other):
        return None
    if np.array_equal(own, other):
        return unchanged(len(own))
    return bootstrap({"difference": mean_of(own - other)}, len(own))["difference"]


def _seconds(results: list[Result], step: str) -> float | None:
    values = [result["seconds"][step] for result in results if step in result["seconds"]]
    return mean(values) if values else None
