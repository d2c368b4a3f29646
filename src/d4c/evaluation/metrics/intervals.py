"""95 % intervals: Wilson's for proportions, and the bootstrap over images for every other figure.

Torch is not imported here, since saved metrics are read and shown without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z95 = 1.959963984540054
"""The normal quantile that leaves 2.5 % on each side."""
REPLICATES = 1000
"""Samples that the bootstrap draws."""
_CELLS = 1 << 21
"""Weights that are drawn at once."""

Weights = NDArray[np.float64]
"""How often each of R samples holds each of N images, [R, N]."""
Statistic = Callable[[Weights], NDArray[np.float64]]
"""A figure as a function of how often each image counts: weights [R, N] to values [R]."""


@dataclass(frozen=True)
class Interval:
    """A figure, most often a proportion in percent, with the two ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} % [{self.low:.2f}, {self.high:.2f}]"


def wilson(hits: int, count: int) -> Interval:
    """Return the proportion `hits / count` in percent with its 95 % Wilson score interval (Wilson 1927).

    Its ends are the two proportions p for which (hits / count - p)^2 = z^2 p (1 - p) / count. Unlike the normal
    interval it stays within 0 and 100 % and is not empty at 0 or `count` hits.

    Args:
        hits: Number of hits.
        count: Number of trials, at least 1.
    """
    proportion, spread = hits / count, Z95**2 / count
    center = (proportion + spread / 2) / (1 + spread)
    half = math.sqrt(proportion * (1 - proportion) * spread + spread**2 / 4) / (1 + spread)
    low = 0.0 if hits == 0 else center - half
    high = 1.0 if hits == count else center + half
    return Interval(100 * proportion, 100 * low, 100 * high)


def unchanged(count: int) -> Interval:
    """Return the difference of two models that agree on each of `count` images, with its 95 % interval.

    The bootstrap of zeros alone would say that nothing is lost beyond doubt. Its ends are those of Wilson's interval
    for none of `count` images, of which all might have been lost or won.
    """
    most = wilson(0, count).high
    return Interval(0.0, -most, most)


def bootstrap(statistics: Mapping[str, Statistic], count: int) -> dict[str, Interval]:
    """Compute figures with the 95 % percentile intervals of the bootstrap over images (Efron 1979).

    The samples are the same in every call with the same number of images, so that results repeat and differences
    between two models are paired.

    Args:
        statistics: Figures by name, as functions of how often each image counts.
        count: Number of images N, at least 1.

    Returns:
        An interval for each figure; the value is that of all images once.
    """
    values = {name: float(statistic(np.ones((1, count)))[0]) for name, statistic in statistics.items()}
    drawn: dict[str, list[NDArray[np.float64]]] = {name: [] for name in statistics}
    for weights in _samples(count):
        for name, statistic in statistics.items():
            drawn[name].append(statistic(weights))
    intervals = {}
    for name, parts in drawn.items():
        # A sample may lack what a figure needs, such as every image of a class.
        low, high = np.nanquantile(np.concatenate(parts), (0.025, 0.975))
        intervals[name] = Interval(values[name], min(float(low), values[name]), max(float(high), values[name]))
    return intervals


def mean_of(values: ArrayLike, sizes: ArrayLike | None = None) -> Statistic:
    """Return the mean over images, or the ratio of sums over images where each stands for several trials.

    Args:
        values: A number for each image [N]; with `sizes` the sum over its trials.
        sizes: Trials of each image [N], one by default.
    """
    numerators = np.asarray(values, np.float64)
    denominators = np.ones(len(numerators)) if sizes is None else np.asarray(sizes, np.float64)
    return lambda weights: (weights @ numerators) / (weights @ denominators)


def _samples(count: int) -> Iterator[Weights]:
    """Yield the weights of all samples, some at a time."""
    random = np.random.default_rng(0)
    step = max(1, _CELLS // count)
    for start in range(0, REPLICATES, step):
        rows = min(step, REPLICATES - start)
        drawn = random.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)
