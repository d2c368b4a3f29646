"""Which sums of two products fit 16 bits, as processors need that add products of 8-bit integers in pairs.

x86 processors without VNNI instructions multiply unsigned activations by signed weights two at a time and add the two
products in 16 bits (vpmaddubsw). There 255 * 127 + 255 * 127 does not fit and saturates silently. A sum with an
activation code of 0 to 255 each fits if the positive weights of the pair sum to at most 128, and so do the negative
ones: 255 * 128 = 32,640. So two weights of opposite signs always fit, and so does everything of fewer than 8 bits,
on either side.

Which weights are a pair follows from the order in which a runtime multiplies: the first and the second, the third and
the fourth, and so on. Linear layers and patch embeddings, which are linear layers over flat patches, have the order of
their columns; convolutions see `convolution_orders`. tests/deployment/onnx checks the files that are written.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

INT16_MAX = 2**15 - 1
LARGEST_SUM = INT16_MAX // 255
"""Largest magnitude, 128, of the sum of two weights of one sign that fits with any 8-bit activations."""


def always_fit(largest_weight: int, largest_activation: int) -> bool:
    """Whether the sum of any two products fits 16 bits.

    Args:
        largest_weight: Largest magnitude of the signed weight codes.
        largest_activation: Largest unsigned activation code, 255 at 8 bits.
    """
    return 2 * largest_weight * largest_activation <= INT16_MAX


def convolution_orders(channels: int, height: int, width: int) -> list[Tensor]:
    """The orders in which runtimes multiply the weights of a filter, as flat indices into [C, H, W]; -1 for a zero.

    All read position after position, each with its channels. OpenVINO adds a zero to an odd number of channels.
    """
    by_position = torch.arange(channels * height * width).view(channels, -1).T
    return [by_position.flatten(), F.pad(by_position, (0, channels % 2), value=-1).flatten()]


def neighbors(orders: Iterable[Tensor]) -> Tensor:
    """The pairs [P, 2] of indices that come together in any of some orders; what is alone or -1 makes no pair."""
    none = torch.empty(0, 2, dtype=torch.long)
    pairs = torch.cat([none, *(order[: len(order) // 2 * 2].view(-1, 2) for order in orders)])
    return pairs[(pairs >= 0).all(1)].unique(dim=0)


def rows_that_fit(codes: Tensor, pairs: Tensor) -> Tensor:
    """Whether all pairs of each row fit with any 8-bit activations.

    Args:
        codes: Signed weight codes [O, K].
        pairs: Indices [P, 2] below K.

    Returns:
        Boolean [O].
    """
    members = codes.int()[:, pairs]
    fits = (members.clamp(min=0).sum(2) <= LARGEST_SUM) & (members.clamp(max=0).sum(2) >= -LARGEST_SUM)
    return fits.all(1)


def code_limits(steps: Tensor, pairs: Tensor, qmin: int, qmax: int) -> tuple[Tensor, Tensor]:
    """Limits of each code, within which all pairs fit whatever is rounded how.

    The limits of a pair (a, b) meet at the point of the line a + b = 128 that is nearest to its weights, so that
    rounding to nearest is left alone where it fits anyway.

    Args:
        steps: Real weights [O, K], in steps of the codes.
        pairs: Indices [P, 2] below K.
        qmin: Smallest code.
        qmax: Largest code.

    Returns:
        Smallest and largest code of each weight, both of the shape of `steps`; at most 0 the one, at least 1 the other.
    """
    low, high = torch.full_like(steps, qmin), torch.full_like(steps, qmax)
    first, second = steps[:, pairs].unbind(2)
    difference = (first - second).clamp(-LARGEST_SUM, LARGEST_SUM)
    upper = ((LARGEST_SUM + difference) / 2).round().clamp(LARGEST_SUM - qmax, qmax)
    lower = -((LARGEST_SUM - difference) / 2).round()
    columns = pairs.T.flatten().expand(len(steps), -1)
    high.scatter_reduce_(1, columns, torch.cat([upper, LARGEST_SUM - upper], 1), "amin")
    low.scatter_reduce_(1, columns, torch.cat([lower, -LARGEST_SUM - lower], 1), "amax")
    return low, high
