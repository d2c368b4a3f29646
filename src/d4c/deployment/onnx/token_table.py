"""A token table in 4 bits: rows in groups of columns with scales of least error, and the nodes that read it.

Columns are rounded one after the other, and the error of each is spread over those that follow, as GPTQ does
(arXiv 2210.17323). Here the errors of a row reach the embedding through the whole tower, so that the curvature is the
mean of g g^T over gradients g of the embedding with respect to the rows of generic prompts.

The rows of a prompt are picked as bytes of two codes and split by float arithmetic, which every runtime computes alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor, nn

from d4c.calibration.prompts import generic_prompts
from d4c.deployment.onnx.graph import Graph, NarrowTable
from d4c.models.clip import CLIP
from d4c.quantization.rounding.gptq import damped, inverse_factor

GROUP = 32
"""Columns that share a scale, or the largest power of two below that divides a row."""
SHARES = tuple(float(share) for share in np.linspace(0.65, 1.05, 17))
"""Scales that are tried: shares of what the largest value of a group asks for, with either sign."""
LEVELS = 127
"""Scales of a group, in steps of that of its row, with either sign."""
HEADROOM = 1.27
"""The largest scale beside what the largest value of a row asks for: spread errors can make it larger."""
ROWS = 4096
"""Rows that are rounded at once."""
PROMPTS, PROMPTS_AT_ONCE, DIRECTIONS = 64, 4, 4
"""Prompts, and random directions of the embedding of each, whose gradients give the curvature."""
DAMPING = 0.1
"""Share of the mean curvature that is added to that of every column."""


def narrow_table(clip: CLIP) -> NarrowTable:
    """Round the token table of an artifact to 4 bits."""
    table = clip.text.token_embedding(torch.arange(clip.text.vocab_size, device=clip.device))
    return narrow_rows(table, curvature(clip))


def narrow_rows(table: Tensor, hessian: Tensor) -> NarrowTable:
    """Round a table to 4 bits.

    Args:
        table: Rows [V, C]; C is even.
        hessian: Curvature of the loss in a row [C, C].
    """
    factor = inverse_factor(damped(hessian.double(), DAMPING)).float()
    codes, levels, steps = zip(*(_rounded(rows, factor) for rows in table.split(ROWS)), strict=True)
    return NarrowTable(torch.cat(codes), torch.cat(levels), torch.cat(steps))


def curvature(clip: CLIP) -> Tensor:
    """Return the mean of g g^T [C, C] over gradients g of the unit embedding with respect to rows of prompts."""
    width = clip.text.token_embedding(torch.zeros(1, dtype=torch.long, device=clip.device)).shape[1]
    total, count = torch.zeros(width, width, device=clip.device), 0
    generator = torch.Generator().manual_seed(0)
    with torch.enable_grad(), _watched(clip) as watched:
        for tokens in _prompts(clip).split(PROMPTS_AT_ONCE):
            embeddings = F.normalize(clip.encode_text(tokens), dim=-1)
            for _ in range(DIRECTIONS):
                direction = torch.randn(embeddings.shape, generator=generator).to(clip.device)
                (gradient,) = torch.autograd.grad((embeddings * direction).sum(), watched.rows, retain_graph=True)
                gradient = gradient.reshape(-1, width)
                total += gradient.T @ gradient
                count += len(gradient)
    return total / count


def _prompts(clip: CLIP) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of long ones that are cut
        return clip.tokenize(generic_prompts(PROMPTS)).to(clip.device)


class _Watched(nn.Module):
    """Keeps the rows that were read, for gradients with respect to them."""

    rows: Tensor

    def __init__(self, table: nn.Module) -> None:
        super().__init__()
        self.table = table

    def forward(self, tokens: Tensor) -> Tensor:
        self.rows = self.table(tokens).detach().requires_grad_()
        return self.rows


@contextmanager
def _watched(clip: CLIP) -> Iterator[_Watched]:
    with _reading_from(clip, watched := _Watched(clip.text.token_embedding)):
        yield watched


@contextmanager
def in_torch(clip: CLIP, table: NarrowTable) -> Iterator[None]:
    """Meanwhile the text tower reads from a rounded table, so that a graph can be compared with it."""
    with _reading_from(clip, nn.Embedding.from_pretrained(table.values())):
        yield


@contextmanager
def _reading_from(clip: CLIP, table: nn.Module) -> Iterator[None]:
    usual = clip.text.token_embedding
    clip.text.token_embedding = table
    try:
        yield
    finally:
        clip.text.token_embedding = usual


def _rounded(rows: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, levels and steps of some rows [R, C], from the factor of the inverse Hessian [C, C]."""
    width = rows.shape[1]
    group = next(size for size in (GROUP >> i for i in range(6)) if width % size == 0)
    steps = rows.abs().amax(1, keepdim=True) * (HEADROOM / 8 / LEVELS)
    rows, codes, levels = rows.clone(), torch.empty_like(rows), []
    for start in range(0, width, group):
        columns = range(start, start + group)
        after = slice(start + group, width)
        level = _searched(rows[:, columns], steps)
        scale = _nonzero(level * steps)
        errors = torch.empty_like(rows[:, columns])
        for k, column in enumerate(columns):
            value = rows[:, column, None]
            codes[:, column, None] = code = (value / scale).round().clamp(-8, 7)
            errors[:, k, None] = error = (value - code * scale) / factor[column, column]
            following = slice(column + 1, start + group)
            rows[:, following] -= error * factor[column, following]
        rows[:, after] -= errors @ factor[start : start + group, after]
        levels.append(level)
    return (codes + 8).to(torch.uint8), torch.cat(levels, 1).to(torch.int8), steps


def _searched(group: Tensor, steps: Tensor) -> Tensor:
    """The level of least squared error of a group of columns [R, 1]."""
    largest = group.abs().amax(1, keepdim=True)
    least = torch.full_like(largest, float("inf"))
    best = torch.ones_like(largest)
    for share in SHARES:
        for sign in (1, -1):
            level = (sign * share / 8 * largest / _nonzero(steps)).round().clamp(-LEVELS, LEVELS)
            scale = _nonzero(level * steps)
            error = ((group / scale).round().clamp(-8, 7) * scale - group).square().sum(1, keepdim=True)
            best = torch.where(error < least, level, best)
            least = torch.minimum(error, least)
    return best


def _nonzero(scale: Tensor) -> Tensor:
    return torch.where(scale != 0, scale, 1)


def narrow_embedding(g: Graph, rows: str, table: NarrowTable, name: str) -> str:
    """Emit the rows of a table in 4 bits.

    Args:
        g: The graph.
        rows: Their indices [batch, length].
        table: The table [V, C].
        name: Name of the result.

    Returns:
        The result [batch, length, C].
    """
    width, groups = table.codes.shape[1], table.levels.shape[1]
    first, second = table.codes.chunk(2, 1)
    pairs = g.node("Gather", [g.constant(f"{name}/weight", first | second << 4), rows], f"{name}/pairs")
    pairs = g.node("Cast", [pairs], f"{name}/pairs_float", to=TensorProto.FLOAT)
    upper = g.node("Floor", [g.node("Mul", [pairs, g.scalar(1 / 16)], f"{name}/sixteenth")], f"{name}/second")
    lower = g.node("Sub", [pairs, g.node("Mul", [upper, g.scalar(16.0)], f"{name}/second_shifted")], f"{name}/first")
    shifted = g.node("Concat", [lower, upper], f"{name}/codes_shifted", axis=-1)
    values = g.node("Sub", [shifted, g.scalar(8.0)], f"{name}/codes")
    values = g.reshape(values, [0, 0, groups, width // groups], f"{name}/groups")
    levels = g.node("Gather", [g.constant(f"{name}/level", table.levels[..., None]), rows], f"{name}/levels")
    levels = g.node("Cast", [levels], f"{name}/levels_float", to=TensorProto.FLOAT)
    steps = g.node("Gather", [g.constant(f"{name}/scale", table.steps[..., None]), rows], f"{name}/steps")
    scales = g.node("Mul", [levels, steps], f"{name}/scales")
    return g.reshape(g.node("Mul", [values, scales], f"{name}/scaled"), [0, 0, width], name)
