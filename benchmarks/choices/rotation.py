"""A rotation of the residual stream of a vision transformer, as an alternative to the scales of its channels.

After a LayerNorm without weight and bias any orthogonal matrix may follow, since the norm of a centered vector does not
depend on its direction: the matrix goes into all that writes into the stream, its inverse into all that reads it. Here
only the readers are rewritten, and the matrix is computed after each norm. The numbers are the same: what is quantized
is what the norm hands on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from d4c.models.clip import CLIP
from d4c.models.layers import Block
from d4c.quantization.calibrate import prepare

SEED = 7


def hadamard_with_signs(width: int) -> Tensor:
    """A Hadamard matrix of the largest power of two in the width, mixed with a random rotation of what is left."""
    generator = torch.Generator().manual_seed(SEED)
    power = width & -width
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < power:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)]) / 2**0.5
    rest = torch.linalg.qr(torch.randn(width // power, width // power, generator=generator).double()).Q.contiguous()
    signs = torch.randint(0, 2, (width,), generator=generator) * 2.0 - 1
    return torch.kron(rest, matrix.contiguous()) * signs


def random_rotation(width: int) -> Tensor:
    generator = torch.Generator().manual_seed(SEED)
    return torch.linalg.qr(torch.randn(width, width, generator=generator).double()).Q


def rotating(rotation: Callable[[int], Tensor]) -> Callable[..., None]:
    """`prepare`, followed by a rotation of what the norms of the image tower hand on."""

    def prepare_and_rotate(clip: CLIP, *args: Any) -> None:
        prepare(clip, *args)
        for block in cast("list[Block]", list(clip.image.blocks)):
            readers = [block.attn.q, block.attn.k, block.attn.v]
            rotate(block.norm1, readers, rotation(len(block.norm1.weight)))
            rotate(block.norm2, [block.mlp.fc1], rotation(len(block.norm2.weight)))

    return prepare_and_rotate


@torch.no_grad()
def rotate(norm: nn.LayerNorm, readers: list[nn.Linear], matrix: Tensor) -> None:
    """Move weight and bias of a norm into its readers, and a rotation between them; their outputs stay the same."""
    matrix = matrix.to(norm.weight.device)
    for layer in readers:
        weight = layer.weight.double()
        layer.bias.add_((weight @ norm.bias.double()).float())
        layer.weight.copy_((weight * norm.weight.double()) @ matrix.T)
    norm.weight.fill_(1)
    norm.bias.zero_()
    turned = matrix.T.float()
    norm.register_forward_hook(lambda module, inputs, output: output @ turned)
