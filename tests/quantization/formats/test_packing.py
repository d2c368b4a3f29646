"""Packing loses nothing and takes exactly b bits a code."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from d4c.quantization.formats.packing import pack, packed_size, planes, unpack

bit_widths = st.integers(2, 8)
shapes = st.lists(st.integers(0, 7), min_size=1, max_size=4).map(tuple)


def codes(bits: int, signed: bool, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    low = -(2 ** (bits - 1)) if signed else 0
    return torch.randint(low, low + 2**bits, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int16)


@given(bit_widths, st.booleans(), shapes, st.integers(0, 1000))
def test_unpacking_gives_back_what_was_packed(bits: int, signed: bool, shape: tuple[int, ...], seed: int) -> None:
    given_codes = codes(bits, signed, shape, seed)
    packed = pack(given_codes, bits, signed)
    assert packed.dtype == torch.uint8
    assert packed.shape == (packed_size(given_codes.numel(), bits),)
    assert torch.equal(unpack(packed, bits, signed, shape), given_codes)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_every_code_survives(bits: int, signed: bool) -> None:
    low = -(2 ** (bits - 1)) if signed else 0
    every = torch.arange(low, low + 2**bits, dtype=torch.int16)
    assert torch.equal(unpack(pack(every, bits, signed), bits, signed, every.shape), every)


@given(bit_widths, st.integers(0, 100))
def test_eight_codes_take_as_many_bytes_as_a_code_has_bits(bits: int, eights: int) -> None:
    assert packed_size(8 * eights, bits) == bits * eights


@given(bit_widths, st.integers(1, 1000))
def test_a_ragged_end_costs_less_than_a_byte_a_plane(bits: int, count: int) -> None:
    exact = math.ceil(count * bits / 8)
    assert exact <= packed_size(count, bits) < exact + len(planes(bits))


@given(bit_widths)
def test_planes_are_powers_of_two_that_add_up(bits: int) -> None:
    assert sum(planes(bits)) == bits
    assert planes(bits) == sorted(set(planes(bits)) & {8, 4, 2, 1}, reverse=True)


def test_the_layout_of_four_and_six_bits_is_the_documented_one() -> None:
    assert pack(torch.tensor([0x1, 0x2, 0x3]), 4, signed=False).tolist() == [0x21, 0x03]
    # High four bits of each code first, then the low two.
    six = torch.tensor([0b0001_10, 0b0010_01, 0b0011_11, 0b0100_00])
    assert pack(six, 6, signed=False).tolist() == [0x21, 0x43, 0b00_11_01_10]
    assert pack(torch.tensor([-8, 7]), 4, signed=True).tolist() == [0xF0]
