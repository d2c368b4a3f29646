"""Which sums of two products fit 16 bits, as processors need that add products of 8-bit integers in pairs.

x86 processors without VNNI instructions multiply unsigned activations by signed weights two at a time and add the two
products in 16 bits. There 255 * 127 + 255 * 127 does not fit and saturates silently. Products of any 8-bit activation
with weights of magnitude 64 or less fit, and so do all weights of 4 and 6 bits.
"""

from __future__ import annotations

INT16_MAX = 2**15 - 1
REDUCED_CODE = 63
"""Largest weight code of the reduced range -63 to 63, the symmetric range of 7 bits, which always fits."""


def pairs_fit(largest_weight: int, largest_activation: int) -> bool:
    """Whether the sum of any two products fits 16 bits.

    Args:
        largest_weight: Largest magnitude of the signed weight codes.
        largest_activation: Largest unsigned activation code, 255 at 8 bits.
    """
    return 2 * largest_weight * largest_activation <= INT16_MAX
