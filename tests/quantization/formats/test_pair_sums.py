"""What fits 16 bits in pairs, against the sums themselves."""

from __future__ import annotations

import numpy as np
import pytest

from d4c.quantization.formats.pair_sums import REDUCED_CODE, pairs_fit
from d4c.quantization.formats.scheme import QuantArgs


@pytest.mark.parametrize("activation", [15, 63, 255])
@pytest.mark.parametrize("weight", [*range(1, 129, 7), 64, 65, 127, 128])
def test_what_fits_is_added_without_a_loss(weight: int, activation: int) -> None:
    """The largest sum that a pair can have, positive and negative, in 16 bits as the processor adds it."""
    exact = 2 * weight * activation
    with np.errstate(over="ignore"):
        sums = np.array([exact, -exact]).astype(np.int16)
    if pairs_fit(weight, activation):
        assert sums.tolist() == [exact, -exact]
    else:
        assert exact >= 2**15


def test_the_reduced_range_fits_any_activation_and_the_whole_one_does_not() -> None:
    reduced, whole = QuantArgs(8, True, "channel", reduce_range=True), QuantArgs(8, True, "channel")
    assert (reduced.qmin, reduced.qmax) == (-REDUCED_CODE, REDUCED_CODE)
    assert pairs_fit(reduced.qmax, 255)
    assert not pairs_fit(whole.qmax, 255)
