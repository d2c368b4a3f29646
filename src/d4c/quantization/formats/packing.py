"""Integer codes of 2 to 8 bits packed into bytes, exactly b bits per code.

A code is split into planes of 4, 2 and 1 bits; 8 bits stay whole, 6 bits are a plane of 4 and one of 2. The planes of
the higher bits come first, and each plane starts on a byte. Within a plane codes are in order, the first one in the
lowest bits of a byte. Signed codes are stored with 2^(b-1) added.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def planes(bits: int) -> list[int]:
    """Widths of the planes of a code, highest bits first: 6 gives [4, 2], 7 gives [4, 2, 1]."""
    return [width for width in (8, 4, 2, 1) if bits & width]


def packed_size(count: int, bits: int) -> int:
    """How many bytes `count` codes take."""
    return sum(_plane_size(count, width) for width in planes(bits))


def _plane_size(count: int, width: int) -> int:
    return -(-count * width // 8)


def pack(codes: Tensor, bits: int, signed: bool) -> Tensor:
    """Pack codes into bytes.

    Args:
        codes: Integers of any shape, within -2^(b-1) .. 2^(b-1) - 1 if signed and 0 .. 2^b - 1 otherwise.
        bits: Bits b per code, 2 to 8.
        signed: Whether codes can be negative.

    Returns:
        Bytes, uint8 [packed_size].
    """
    values = codes.flatten().to(torch.int32) + (2 ** (bits - 1) if signed else 0)
    packed, shift = [], bits
    for width in planes(bits):
        shift -= width
        plane = (values >> shift) & (2**width - 1)
        per_byte = 8 // width
        plane = F.pad(plane, (0, -len(plane) % per_byte)).view(-1, per_byte)
        offsets = torch.arange(per_byte, device=plane.device, dtype=torch.int32) * width
        packed.append((plane << offsets).sum(1))
    return torch.cat(packed).to(torch.uint8)


def unpack(packed: Tensor, bits: int, signed: bool, shape: tuple[int, ...]) -> Tensor:
    """Unpack bytes into codes; the inverse of `pack`.

    Args:
        packed: Bytes, uint8 [packed_size]; the caller checks their number.
        bits: Bits per code, 2 to 8.
        signed: Whether codes can be negative.
        shape: Shape of the codes.

    Returns:
        Codes, int16 of `shape`.
    """
    count = int(torch.Size(shape).numel())
    values = torch.zeros(count, dtype=torch.int16, device=packed.device)
    start, shift = 0, bits
    for width in planes(bits):
        shift -= width
        size = _plane_size(count, width)
        per_byte = 8 // width
        offsets = torch.arange(per_byte, device=packed.device, dtype=torch.int16) * width
        plane = (packed[start : start + size].to(torch.int16)[:, None] >> offsets) & (2**width - 1)
        values |= plane.flatten()[:count] << shift
        start += size
    return (values - (2 ** (bits - 1) if signed else 0)).view(shape)
