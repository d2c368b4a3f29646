"""A token table in 4 bits: as near as groups of 16 steps allow, and read as it is rounded by both runtimes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto

from d4c.deployment.onnx.graph import Graph
from d4c.deployment.onnx.token_table import narrow_embedding, narrow_rows


def dequantized(table: torch.Tensor) -> torch.Tensor:
    codes, scales = narrow_rows(table)
    return (codes.float() - 8) * scales.float().repeat_interleave(table.shape[1] // scales.shape[1], 1)


def test_the_search_is_better_than_the_largest_value() -> None:
    table = torch.randn(50, 128)
    largest = table.reshape(-1, 64).abs().amax(1, keepdim=True) / 7
    plain = ((table.reshape(-1, 64) / largest).round() * largest).reshape(table.shape)
    assert (dequantized(table) - table).square().mean() < 0.8 * (plain - table).square().mean()


def test_what_has_16_steps_is_kept() -> None:
    steps = torch.randint(-8, 8, (20, 64)).float()
    steps[:, 0] = -8
    assert torch.equal(dequantized(0.5 * steps), 0.5 * steps)
    assert torch.equal(dequantized(-0.5 * steps), -0.5 * steps)


def test_rows_of_zeros_stay_zero() -> None:
    assert torch.equal(dequantized(torch.zeros(3, 32)), torch.zeros(3, 32))


@pytest.mark.parametrize("width", [64, 96, 192, 40], ids=str)
def test_runtimes_read_what_was_rounded(width: int, runtime: Callable[..., Any]) -> None:
    table = torch.randn(30, width)
    g = Graph("table")
    rows = g.input("rows", TensorProto.INT64, ["batch", "length"])
    narrow_embedding(g, rows, table, "picked")
    g.output("picked", ["batch", "length", width])
    indices = np.array([[0, 29, 3], [7, 7, 1]])
    found = runtime(g.model("0").SerializeToString(), {"rows": indices})
    np.testing.assert_allclose(found, dequantized(table)[indices].numpy(), rtol=1e-6)
