"""The range of an input by the error of the layer's output, for inputs whose channels no factor can even out.

After an activation few values are large, and in few channels. Counted alone, their clipping outweighs the rounding of
all others, and at 4 bits a range that covers them rounds most of a hidden layer to zero. What counts is the output

    sum over rows of |W (x_q - x)|^2

where errors of many channels add up and a channel counts by the weights that read it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from d4c.quantization.formats.affine import fake_quantize
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.ranges.observer import Observer

ROWS, BATCH_ROWS = 512, 256
"""How many rows of an input a range is chosen on, and how many of a batch are kept for the choice."""
OUTPUTS = 128
"""Random sums of outputs that stand for all of them (Johnson and Lindenstrauss)."""
WIDTHS, FINER = 16, 4
"""Widths that are tried, as shares of the whole range, and steps between the best one and its neighbors."""
ZERO_POINTS = 4
"""Zero points that are tried for each width, from none of the negative values to all of them."""


class OutputObserver(Observer):
    """An observer that chooses the range of least error of a layer's output.

    Args:
        args: Number format whose range is chosen.
        name: Name of the quantizer, for errors.
        weight: Float weight [O, C] of the layer, with the columns of the channels that are observed.
    """

    def __init__(self, args: QuantArgs, name: str, weight: Tensor) -> None:
        super().__init__(args, name)
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, (OUTPUTS, len(weight)), generator=generator).to(weight) * 2 - 1
        self.readers = (weight if len(weight) <= OUTPUTS else signs @ weight).float()
        self.rows: list[Tensor] = []

    def add(self, x: Tensor) -> None:
        """Add a batch [..., C]."""
        super().add(x)
        rows = x.detach().float().flatten(0, -2)
        generator = torch.Generator().manual_seed(len(self.rows))
        self.rows.append(rows[torch.randperm(len(rows), generator=generator)[:BATCH_ROWS].to(rows.device)])

    def finish(self) -> tuple[Tensor, Tensor]:
        """Choose the range for all batches.

        Returns:
            Scale and zero point, scalars.

        Raises:
            DataError: There was no batch, or a value is not finite.
        """
        scale, zero_point = super().finish()
        rows = torch.cat(self.rows)
        self.rows = [rows[:: -(-len(rows) // ROWS)]]
        low, high = rows.amin().clamp(max=0), rows.amax().clamp(min=0)
        whole = (high - low) / self.args.qmax
        if not bool(whole > 0):
            return scale, zero_point
        coarse = [whole * step / WIDTHS for step in range(1, WIDTHS + 1)]
        best = self._least([(scale, zero_point), *self._candidates(coarse, low)])
        step = whole / WIDTHS / FINER
        fine = [best[0] + step * i for i in range(1 - FINER, FINER) if bool(best[0] + step * i > 0)]
        return self._least([best, *self._candidates(fine, low)])

    def _candidates(self, scales: list[Tensor], low: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Each scale with zero points that cover none to all of the negative values."""
        for scale in scales:
            all_negative = min(int((-low / scale).ceil()), self.args.qmax)
            points = torch.linspace(0, all_negative, min(ZERO_POINTS, all_negative + 1)).round()
            yield from ((scale, zero_point.to(scale)) for zero_point in points)

    def _least(self, candidates: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """The candidate of least error of the output."""
        (rows,), qmin, qmax = self.rows, self.args.qmin, self.args.qmax
        errors = [
            ((fake_quantize(rows, scale, zero_point, qmin, qmax) - rows) @ self.readers.T).square().sum()
            for scale, zero_point in candidates
        ]
        return candidates[int(torch.stack(errors).argmin())]
