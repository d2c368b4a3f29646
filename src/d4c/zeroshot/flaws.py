"""Says what makes embeddings useless: numbers that are not finite, zeros, or the same for everything."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SAME = 1e-6
"""Largest difference between embeddings that count as the same, relative to their largest number."""


def flaw(embeddings: NDArray[np.floating[Any]], different: bool = False) -> str | None:
    """Return what is wrong with embeddings, as the end of a sentence that begins with them; None if nothing is.

    Args:
        embeddings: Rows [N, D].
        different: Whether they are those of inputs that differ clearly, so that they must not all be the same.
    """
    count = len(embeddings)
    if bad := count - int(np.isfinite(embeddings).all(-1).sum()):
        return f"{bad} of {count} are not finite"
    if zero := count - int(embeddings.any(-1).sum()):
        return f"{zero} of {count} are zero"
    if different and count > 1 and np.ptp(embeddings, axis=0).max() <= SAME * np.abs(embeddings).max():
        return f"all {count} are the same"
    return None
