"""Registers and deleted tokens for a vision transformer, after RegCache (arXiv 2510.04547), without training.

Tokens that fire harder than the rest in the middle of a tower are alike in all images. So the keys and values of one of
them are cached and put before those of an image, from the block on in which such tokens arise, in the hope that the
image's own tokens need not fire. Those that still do are deleted in that block.

What is public of the paper names these steps; how it chooses is not said there. Here it is so: the block is the one
after which the largest patch has grown most; each image's largest patch there is a candidate; the one is taken that
leaves the smallest patches behind it. Cached keys and values stay float, as in PrefixQuant (arXiv 2410.05265).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d4c.models.clip import CLIP
from d4c.models.layers import Attention, Block, join_heads, split_heads

IMAGES, CANDIDATES = 32, 8
"""Images that a register is looked for in, and how many of their patches are tried."""


@dataclass(frozen=True)
class Registers:
    """Where outlier tokens arise, and the state [C] of one of them before each block from there on."""

    block: int
    states: tuple[Tensor, ...]


class RegisterAttention(Attention):
    """Attends to cached keys and values besides those of its input; neither they nor their products are quantized."""

    keys: Tensor | None
    values: Tensor | None

    def __init__(self, usual: Attention, norm: nn.LayerNorm, state: Tensor, copies: int) -> None:
        nn.Module.__init__(self)
        self.heads = usual.heads
        for name, part in usual.named_children():
            self.add_module(name, part)
        # In a list, since a norm is no part of its attention.
        self.norm, self.state, self.copies = [norm], state, copies
        self.register_buffer("keys", None)
        self.register_buffer("values", None)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        keys, values = self.computed() if self.keys is None or self.values is None else (self.keys, self.values)
        q, k, v = (split_heads(t, self.heads) for t in (self.q(x), self.k(x), self.v(x)))
        q = q * q.shape[-1] ** -0.5
        weights = torch.cat([q @ keys.mT, self.scores(q, k.mT)], -1).softmax(-1)
        count = keys.shape[-2]
        return self.out(join_heads(self.context(weights[..., count:], v) + weights[..., :count] @ values))

    def cache(self) -> None:
        """Keep keys and values as the weights now give them."""
        self.keys, self.values = self.computed()

    def computed(self) -> tuple[Tensor, Tensor]:
        """Keys and values [1, heads, copies, d] of the register, from float weights in whatever form they are."""
        row = F.layer_norm(self.state, self.state.shape, self.norm[0].weight, self.norm[0].bias, self.norm[0].eps)
        rows = row.expand(1, self.copies, -1)
        k, v = (split_heads(F.linear(rows, layer.weight, layer.bias), self.heads) for layer in (self.k, self.v))
        return k, v


class DeletingBlock(Block):
    """Drops the patches with the largest hidden activations of each image before the second layer of its MLP."""

    def __init__(self, usual: Block, deleted: int) -> None:
        nn.Module.__init__(self)
        for name, part in usual.named_children():
            self.add_module(name, part)
        self.deleted = deleted

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        x = x + self.attn(self.norm1(x), causal)
        hidden = self.mlp.act(self.mlp.fc1(self.norm2(x)))
        peaks = hidden.abs().amax(-1)
        peaks[:, 0] = 0.0  # the class token gives the embedding
        kept = peaks.argsort(-1)[:, : x.shape[1] - self.deleted].sort(-1).values[..., None]
        x, hidden = (t.take_along_dim(kept, 1) for t in (x, hidden))
        return x + self.mlp.fc2(hidden)


@torch.no_grad()
def find_registers(clip: CLIP, pixels: Tensor) -> Registers:
    """Choose a register among the largest patches of some images [N, 3, S, S]."""
    tower, few = clip.image, pixels[:: -(-len(pixels) // IMAGES)]
    states = list(tower.states(few))
    peaks = [largest_patches(state).mean() for state in states]
    block = max(range(1, len(tower.blocks)), key=lambda i: float(peaks[i + 1] / peaks[i]))
    after = states[block + 1][:, 1:].abs().amax(-1)
    images = after.amax(-1).argsort(descending=True)[:CANDIDATES].tolist()
    candidates = [
        Registers(block, tuple(state[i, 1 + int(after[i].argmax())] for state in states[block:-1])) for i in images
    ]

    def left(candidate: Registers) -> float:
        """The size of the largest patches behind the block."""
        x = with_registers(clip, candidate, 1, 0).image.blocks[block](states[block])
        return float(largest_patches(x).mean())

    return min(candidates, key=left)


def largest_patches(state: Tensor) -> Tensor:
    """The largest absolute value of the patches of each image [N], of a state [N, L, C] that begins with a class."""
    return state[:, 1:].abs().amax((-1, -2))


def with_registers(clip: CLIP, registers: Registers, copies: int, deleted: int) -> CLIP:
    """A copy of a float CLIP whose blocks attend to so many copies of the register, and which drops patches."""
    changed = copy.deepcopy(clip)
    blocks = changed.image.blocks
    for number, state in enumerate(registers.states if copies else (), registers.block):
        attention, norm = (blocks.get_submodule(f"{number}.{part}") for part in ("attn", "norm1"))
        assert isinstance(attention, Attention)
        assert isinstance(norm, nn.LayerNorm)
        blocks[number].attn = RegisterAttention(attention, norm, state, copies)
    if deleted:
        block = blocks[registers.block]
        assert isinstance(block, Block)
        blocks[registers.block] = DeletingBlock(block, deleted)
    return changed


def cache_registers(clip: CLIP) -> None:
    """Compute the keys and values of registers once, when the form of the weights no longer changes."""
    for module in clip.modules():
        if isinstance(module, RegisterAttention):
            module.cache()
