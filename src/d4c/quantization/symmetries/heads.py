"""A canonical basis for the channels of each attention head: both sides equally large, all channels equally loud.

Any invertible matrix may mix the channels of a head, so that nothing of the basis that a checkpoint came in is left but
the products. The two sides, such as queries and keys, first get equal and diagonal second moments (balanced truncation,
Moore 1981), which determines the basis. For uniform quantizers it also has the least error: with the moments s_i^2 a
and s_i^2 / a of direction i the product of both sums is least where all a are 1. Then a Hadamard matrix spreads each
direction over all channels (QuaRot, arXiv 2404.00456).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SHRINKAGE = 10.0
"""Weight of the prior in the second moments, relative to what was observed: a few images do not determine 64 x 64
moments, and directions that they leave out must not be blown up. benchmarks/choices measures others."""


def balanced_basis(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """A matrix M per head [heads, d, d] such that M A M^T = M^-T B M^-1, with an equal diagonal.

    Args:
        first: Second moments A of what is multiplied by M [heads, d, d].
        second: Second moments B of what is multiplied by M^-T [heads, d, d].
        weight: A weight that is multiplied by M [heads, d, inputs]. It decides the signs, which moments leave open.
    """
    root = torch.linalg.cholesky(first)
    squares, directions = torch.linalg.eigh(root.mT @ second @ root)
    scales = squares.clamp(min=1e-12 * float(squares.max())).pow(0.25)
    balanced = scales[..., None] * (directions.mT @ torch.linalg.inv(root))
    return hadamard(first.shape[1]).to(first) @ (_signs(balanced @ weight) * balanced)


def shrunk(moments: Tensor, prior: Tensor) -> Tensor:
    """Second moments mixed with those of a prior, which has the same form whatever basis the head came in.

    Args:
        moments: What was observed [heads, d, d].
        prior: What inputs without any structure would give [heads, d, d], up to a factor.
    """
    size = prior.diagonal(dim1=1, dim2=2).mean(1)
    # A head without weights, as pruning leaves them, has a prior of zeros, and any basis serves it.
    tiny = 1e-9 * torch.where(size > 0, size, 1.0)[:, None, None] * torch.eye(moments.shape[1]).to(prior)
    factor = torch.linalg.solve(prior + tiny, moments).diagonal(dim1=1, dim2=2).mean(1)
    return moments + SHRINKAGE * factor.clamp(min=1e-12)[:, None, None] * (prior + tiny)


def hadamard(size: int) -> Tensor:
    """An orthogonal matrix [size, size] with entries of about equal size.

    It is a Hadamard matrix for powers of two, else its Kronecker product with the cosine transform of the odd factor.
    """
    odd = size
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while odd % 2 == 0:
        matrix = torch.kron(matrix, torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / math.sqrt(2))
        odd //= 2
    index = torch.arange(odd, dtype=torch.float64)
    cosines = torch.cos(math.pi * (2 * index + 1) * index[:, None] / (2 * odd)) * math.sqrt(2 / odd)
    cosines[0] /= math.sqrt(2)
    return torch.kron(matrix, cosines)


def _signs(rows: Tensor) -> Tensor:
    """Signs [heads, d, 1] that make the largest entry of each row [heads, d, n] positive."""
    largest = rows.gather(2, rows.abs().argmax(2, keepdim=True))
    return torch.where(largest < 0, -1.0, 1.0).to(rows)
