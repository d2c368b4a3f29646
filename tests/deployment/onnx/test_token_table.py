"""A token table in 4 bits: as near as groups of 16 steps allow, nearest where it counts, and read by both runtimes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto

from d4c.calibration.prompts import generic_prompts
from d4c.deployment.onnx.graph import Graph, NarrowTable
from d4c.deployment.onnx.token_table import GROUP, curvature, narrow_embedding, narrow_rows
from d4c.models.clip import CLIP


def narrowed(table: torch.Tensor) -> NarrowTable:
    """A table whose columns count alike."""
    return narrow_rows(table, torch.eye(table.shape[1]))


def dequantized(table: torch.Tensor) -> torch.Tensor:
    return narrowed(table).values()


def test_the_search_is_better_than_the_largest_value() -> None:
    table = torch.randn(50, 128)
    largest = table.reshape(-1, 64).abs().amax(1, keepdim=True) / 7
    plain = ((table.reshape(-1, 64) / largest).round() * largest).reshape(table.shape)
    assert (dequantized(table) - table).square().mean() < 0.8 * (plain - table).square().mean()


def test_what_has_16_steps_is_kept() -> None:
    steps = torch.randint(-8, 8, (20, 64)).float()
    steps[:, ::GROUP] = -8
    for table in (0.5 * steps, -0.5 * steps):
        torch.testing.assert_close(dequantized(table), table)


def test_rows_of_zeros_stay_zero() -> None:
    assert torch.equal(dequantized(torch.zeros(3, 32)), torch.zeros(3, 32))


def test_errors_are_smaller_where_they_count() -> None:
    table, few = torch.randn(50, 128), torch.randn(128, 16)
    hessian = few @ few.T
    losses = [((narrow_rows(table, h).values() - table) @ few).square().mean() for h in (hessian, torch.eye(128))]
    assert losses[0] < 0.5 * losses[1]


def test_curvature_is_that_of_the_embedding(tiny_siglip: CLIP) -> None:
    """Moving the rows of all prompts along its main direction turns embeddings more than along the least one."""
    _, directions = torch.linalg.eigh(curvature(tiny_siglip))
    tokens = tiny_siglip.tokenize(generic_prompts(8))
    table = tiny_siglip.text.token_embedding.weight
    usual, cosines = tiny_siglip.encode_text(tokens), []
    for direction in (directions[:, -1], directions[:, 0]):
        moved = copy.deepcopy(tiny_siglip)
        moved.text.token_embedding.weight.data = table + 0.01 * table.std() * direction * len(direction) ** 0.5
        cosines.append(F.cosine_similarity(moved.encode_text(tokens), usual).mean())
    assert 1 - cosines[0] > 2 * (1 - cosines[1])


@pytest.mark.parametrize("width", [64, 96, 192, 40], ids=str)
def test_runtimes_read_what_was_rounded(width: int, runtime: Callable[..., Any]) -> None:
    table = torch.randn(30, width)
    g = Graph("table")
    rows = g.input("rows", TensorProto.INT64, ["batch", "length"])
    narrow_embedding(g, rows, narrowed(table), "picked")
    g.output("picked", ["batch", "length", width])
    indices = np.array([[0, 29, 3], [7, 7, 1]])
    found = runtime(g.model("0").SerializeToString(), {"rows": indices})
    np.testing.assert_allclose(found, dequantized(table)[indices].numpy(), rtol=1e-6)
