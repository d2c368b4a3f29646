"""Collects the values of an activation until its range is chosen."""

from __future__ import annotations

from torch import Tensor

from d4c.errors import DataError
from d4c.quantization.config import QuantizeConfig, RangeRule
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.ranges.extremes import PERCENTILE_OUTSIDE, covering_range
from d4c.quantization.ranges.search import Points, search, summarize
from d4c.quantization.ranges.thinning import merge, thin

POINTS = {"tensor": (4096, 512), "token": (4096, 512), "channel": (512, 64)}
"""Points per row that stand for an activation, and those for each of its tails (measured in benchmarks/choices)."""


class Observer:
    """Weighted samples of an activation over batches: one row, or one row per channel of the last axis.

    Args:
        args: Number format whose range is chosen.
        name: Name of the quantizer, for errors.
        rule: How the range follows from the values.
    """

    def __init__(self, args: QuantArgs, name: str, rule: RangeRule = QuantizeConfig.ranges) -> None:
        self.args = args
        self.rule = rule
        self.name = name
        self.parts: list[Points] = []
        self._size = POINTS[args.strategy]

    def add(self, x: Tensor) -> None:
        """Add a batch of any shape."""
        channels = self.args.strategy == "channel"
        rows = x.detach().reshape(-1, x.shape[-1]).T if channels else x.detach().reshape(1, -1)
        self.parts.append(thin(summarize(rows.float()), *self._size, seed=len(self.parts)))

    def finish(self) -> tuple[Tensor, Tensor]:
        """Choose the range for all batches.

        Returns:
            Scale and zero point: scalars, or one per channel [C].

        Raises:
            DataError: There was no batch, or a value is not finite.
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
            outside = PERCENTILE_OUTSIDE if self.rule == "percentile" else 0.0
            scale, zero_point = covering_range(points, self.args.num_bits, outside)
        return (scale, zero_point) if self.args.strategy == "channel" else (scale[0], zero_point[0])
