"""Stored integers unfold to the same codes, in the bytes that their bits take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from d4c.deployment.onnx.forms import weight_codes
from d4c.deployment.onnx.graph import Graph
from d4c.deployment.onnx.parity_sessions import open_session

Run = Callable[[bytes, dict[str, NDArray[Any]]], NDArray[Any]]


def stored(codes: NDArray[np.int8], bits: int, unpacked: bool = False) -> onnx.ModelProto:
    """A graph that adds nothing to the unfolded codes."""
    g = Graph("codes", unpacked)
    shift = g.input("shift", TensorProto.INT32, [])
    wide = g.node("Cast", [weight_codes(g, codes, bits, "w")], "wide", to=TensorProto.INT32)
    g.node("Add", [wide, shift], "codes")
    g.outputs.append(helper.make_tensor_value_info("codes", TensorProto.INT32, codes.shape))
    return g.model("0")


@st.composite
def weights(draw: st.DrawFn) -> tuple[NDArray[np.int8], int]:
    bits = draw(st.integers(2, 8))
    elements = st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return draw(arrays(np.int8, array_shapes(min_dims=1, max_dims=4, max_side=6), elements=elements)), bits


@settings(max_examples=50, deadline=None)
@given(weights(), st.booleans())
def test_codes_of_any_shape_and_width_unfold(given_weights: tuple[NDArray[np.int8], int], unpacked: bool) -> None:
    codes, bits = given_weights
    session = open_session(stored(codes, bits, unpacked).SerializeToString())
    assert np.array_equal(session.run(None, {"shift": np.array(0, np.int32)})[0], codes)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_both_runtimes_unfold_the_same(bits: int, runtime: Run) -> None:
    codes = np.random.default_rng(0).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (64, 48)).astype(np.int8)
    found = runtime(stored(codes, bits).SerializeToString(), {"shift": np.array(0, np.int32)})
    assert np.array_equal(found, codes)


@pytest.mark.parametrize(("bits", "size"), [(2, 0.5), (4, 0.5), (5, 0.75), (6, 0.75), (7, 1), (8, 1)])
def test_weights_take_their_bits_on_disk(bits: int, size: float) -> None:
    codes = np.zeros((32, 32), np.int8)
    initializers = stored(codes, bits).graph.initializer
    assert sum(len(tensor.raw_data) for tensor in initializers if tensor.name.startswith("w/")) == size * codes.size


def test_no_form_uses_what_a_runtime_gets_wrong() -> None:
    """Bit shifts and 2-bit tensors, and dequantizing 4 bits directly, are wrong or slow somewhere."""
    for bits in (2, 4, 6):
        graph = stored(np.ones((8, 8), np.int8), bits).graph
        assert not {node.op_type for node in graph.node} & {"BitShift", "BitwiseAnd", "BitwiseOr", "DequantizeLinear"}
        assert all(tensor.data_type != TensorProto.UINT2 for tensor in graph.initializer)


@given(arrays(np.int8, array_shapes(max_dims=3, max_side=5), elements=st.integers(-8, 7)))
def test_four_bits_are_packed_as_onnx_reads_them(codes: NDArray[np.int8]) -> None:
    g = Graph("int4")
    g.int4("w", codes, True)
    assert np.array_equal(numpy_helper.to_array(g.constants["w"]).astype(np.int8), codes)
