"""Integer codes of 2 to 8 bits as bytes, exactly b bits a code.

A code is split into planes of 4, 2 and 1 bits (8 bits stay whole): 6 bits are a plane of 4 and one of 2.
Within a plane, codes lie in order, the first in the lowest bits of a byte; the higher planes come first and each
plane starts on a byte. Signed codes are stored with 2^(b-1) added.
"""

from __future__ import annotations

import torch
from torch import Tensor


def planes(bits: int) -> list[int]:
    """Widths of the planes of a code, highest bits first: 6 gives [4, 2], 7 gives [4, 2, 1]."""
    return [width for width in (8, 4, 2, 1) if bits & width]


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` codes take."""
    return sum(-(-count * width // 8) for width in planes(bits))


def pack(codes: Tensor, bits: int, signed: bool) -> Tensor:
    """Codes of any shape to uint8 [packed_size]."""
    values = codes.flatten().to(torch.int32) + (2 ** (bits - 1) if signed else 0)
    parts, shift = [], bits
    for width in planes(bits):
        shift -= width
        part = (values >> shift) & (2**width - 1)
        per_byte = 8 // width
        part = torch.nn.functional.pad(part, (0, -len(part) % per_byte)).view(-1, per_byte)
        offsets = torch.arange(per_byte, device=part.device, dtype=torch.int32) * width
        parts.append((part << offsets).sum(1))
    return torch.cat(parts).to(torch.uint8)


def unpack(packed: Tensor, bits: int, signed: bool, shape: tuple[int, ...]) -> Tensor:
    """Inverse of `pack`: int16 codes of `shape`; the caller has checked the size with `packed_size`."""
    count = int(torch.Size(shape).numel())
    values = torch.zeros(count, dtype=torch.int16, device=packed.device)
    start, shift = 0, bits
    for width in planes(bits):
        shift -= width
        size = -(-count * width // 8)
        per_byte = 8 // width
        offsets = torch.arange(per_byte, device=packed.device, dtype=torch.int16) * width
        part = (packed[start : start + size].to(torch.int16)[:, None] >> offsets) & (2**width - 1)
        values |= part.flatten()[:count] << shift
        start += size
    return (values - (2 ** (bits - 1) if signed else 0)).view(shape)
