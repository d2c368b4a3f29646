"""A token table in 4 bits: rows in groups of columns, each with the scale of least error, and the nodes that read it.

The rows of a prompt are picked as bytes of two codes and split by float arithmetic, which every runtime computes alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor, nn

from d4c.deployment.onnx.graph import Graph
from d4c.models.clip import CLIP

GROUP = 64
"""Columns that share a scale, or the largest power of two below that divides a row."""
SHARES = tuple(float(share) for share in np.linspace(0.65, 1.05, 17))
"""Scales that are tried: shares of what the largest value of a group asks for, with either sign."""
ROWS = 2048
"""Rows that are searched at once."""


def narrow_rows(table: Tensor) -> tuple[Tensor, Tensor]:
    """Round a table to 4 bits with the scales of least squared error.

    Args:
        table: Rows [V, C]; C is even.

    Returns:
        Codes from 0 to 15, 8 for zero, as uint8 [V, C], and scales as float16 [V, C / group].
    """
    width = table.shape[1]
    group = next(size for size in (GROUP >> i for i in range(7)) if width % size == 0)
    codes, scales = zip(*(_searched(part.reshape(-1, group)) for part in table.split(ROWS)), strict=True)
    return torch.cat(codes).reshape(-1, width), torch.cat(scales).reshape(len(table), -1)


def narrowed(table: Tensor) -> Tensor:
    """Return the values of a table [V, C] after rounding to 4 bits."""
    codes, scales = narrow_rows(table)
    return ((codes.float() - 8).view(*scales.shape, -1) * scales.float()[..., None]).view(table.shape)


@contextmanager
def in_torch(clip: CLIP) -> Iterator[None]:
    """Meanwhile the text tower reads from its table as rounded to 4 bits, so that a graph can be compared with it."""
    table = clip.text.token_embedding
    rows = torch.arange(clip.text.vocab_size, device=clip.device)
    clip.text.token_embedding = nn.Embedding.from_pretrained(narrowed(table(rows)))
    try:
        yield
    finally:
        clip.text.token_embedding = table


def _searched(groups: Tensor) -> tuple[Tensor, Tensor]:
    largest = groups.abs().amax(1, keepdim=True)
    largest = torch.where(largest > 0, largest, 1)
    least = torch.full_like(largest, float("inf"))
    best = torch.ones_like(largest)
    for share in SHARES:
        for sign in (1, -1):
            # As it is stored.
            scale = (sign * share / 8 * largest).half().float()
            scale = torch.where(scale != 0, scale, 1)
            error = (_rounded(groups, scale) * scale - groups).square().sum(1, keepdim=True)
            best = torch.where(error < least, scale, best)
            least = torch.minimum(error, least)
    return (_rounded(groups, best) + 8).to(torch.uint8), best.half()


def _rounded(groups: Tensor, scale: Tensor) -> Tensor:
    return (groups / scale).round().clamp(-8, 7)


def narrow_embedding(g: Graph, rows: str, table: Tensor, name: str) -> str:
    """Emit the rows of a table in 4 bits.

    Args:
        g: The graph.
        rows: Their indices [batch, length].
        table: The table [V, C].
        name: Name of the result.

    Returns:
        The result [batch, length, C].
    """
    codes, scales = narrow_rows(table)
    first, second = codes.chunk(2, 1)
    pairs = g.node("Gather", [g.constant(f"{name}/weight", first | second << 4), rows], f"{name}/pairs")
    pairs = g.node("Cast", [pairs], f"{name}/pairs_float", to=TensorProto.FLOAT)
    upper = g.node("Floor", [g.node("Mul", [pairs, g.scalar(1 / 16)], f"{name}/sixteenth")], f"{name}/second")
    lower = g.node("Sub", [pairs, g.node("Mul", [upper, g.scalar(16.0)], f"{name}/second_shifted")], f"{name}/first")
    shifted = g.node("Concat", [lower, upper], f"{name}/codes_shifted", axis=-1)
    values = g.node("Sub", [shifted, g.scalar(8.0)], f"{name}/codes")
    groups = scales.shape[1]
    values = g.reshape(values, [0, 0, groups, codes.shape[1] // groups], f"{name}/groups")
    factor = g.node("Gather", [g.constant(f"{name}/scale", scales[..., None]), rows], f"{name}/scales_half")
    factor = g.node("Cast", [factor], f"{name}/scales", to=TensorProto.FLOAT)
    return g.reshape(g.node("Mul", [values, factor], f"{name}/scaled"), [0, 0, codes.shape[1]], name)
