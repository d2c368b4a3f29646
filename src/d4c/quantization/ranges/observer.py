"""Collects what a quantizer sees until its range is chosen."""

from __future__ import annotations

from torch import Tensor

from d4c.errors import DataError
from d4c.quantization.config import RangeRule
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.ranges.extremes import OUTSIDE, between
from d4c.quantization.ranges.search import Points, search, summarize
from d4c.quantization.ranges.thinning import merge, thin

POINTS = {"tensor": (4096, 512), "channel": (512, 64)}
"""Points of each row that stand for an activation, and for each of its tails: see benchmarks/choices."""


class Observer:
    """Weighted samples of an activation over batches; one row, or one a channel of the last axis."""

    def __init__(self, args: QuantArgs, name: str, rule: RangeRule = "mse") -> None:
        self.args = args
        self.rule = rule
        self.name = name
        self.parts: list[Points] = []
        self._size = POINTS[args.strategy]

    def add(self, x: Tensor) -> None:
        """Take in a batch of any shape."""
        channels = self.args.strategy == "channel"
        rows = x.detach().reshape(-1, x.shape[-1]).T if channels else x.detach().reshape(1, -1)
        self.parts.append(thin(summarize(rows.float()), *self._size, seed=len(self.parts)))

    def finish(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point for all that was seen: scalars, or [C].

        Raises DataError if nothing was seen or something was not finite.
        """
        if not self.parts:
            raise DataError(f"The quantizer {self.name} saw no data during calibration; give at least one sample.")
        points = thin(merge(self.parts), *self._size)
        if not bool(points.values.isfinite().all()):
            raise DataError(
                f"The input of {self.name} contains NaN or infinite values on the calibration set; "
                "check the checkpoint and the calibration images."
            )
        if self.rule == "mse":
            scale, zero_point = search(points, self.args.num_bits)
        else:
            outside = OUTSIDE if self.rule == "percentile" else 0.0
            scale, zero_point = between(points, self.args.num_bits, outside)
        return (scale, zero_point) if self.args.strategy == "channel" else (scale[0], zero_point[0])
