"""The transformer layers that the towers share, with every matrix product in its own module."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from d4c.models.anatomy import ChannelAxis, SharedInput
from d4c.models.tower import Part
from d4c.models.tower_config import NORM_EPS, Activation

Watcher = Callable[[Tensor, Tensor], None]
"""Called with the rows [N, L, C] that an attention reads and the weight of each [N, L]."""


class MatMul(nn.Module):
    """Batched product of two activations; a module, so that a quantized product can replace it."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b


class WeightedSum(MatMul):
    """Product of the weights of a softmax with values."""


class Add(nn.Module):
    """Sum of two activations; a module, so that a quantized sum can replace it."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the activation of OpenAI's models."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def activation(name: Activation) -> nn.Module:
    """Return the activation of that name as a module."""
    if name == "quick_gelu":
        return QuickGELU()
    return nn.GELU("tanh" if name == "gelu_tanh" else "none")


class AttentionProducts(Part):
    """The projections `q`, `k`, `v` and `out` and the two products that every attention layer has.

    As long as both products are plain, one fused kernel computes them.
    """

    heads: int
    q: nn.Linear
    k: nn.Linear
    scores: nn.Module
    """The product q k^T."""
    context: nn.Module
    """The product of the softmax with v."""

    def shared_inputs(self) -> list[SharedInput]:
        return [SharedInput((("q", 0), ("k", 0), ("v", 0)))]

    def channel_axes(self) -> list[ChannelAxis]:
        return [
            ChannelAxis("qk", writers=("q",), partners=("k",), heads=self.heads),
            ChannelAxis("vo", writers=("v",), readers=("out",), heads=self.heads),
        ]

    def watch_summary(self, record: Watcher) -> list[RemovableHandle]:
        """Call `record` in every forward with the rows [N, L, C] and the weights [N, L] of the first query over them.

        The weights are the mean over heads.

        Args:
            record: What to call.

        Returns:
            The hooks, to be removed.
        """
        queries: list[Tensor] = []

        def keep(_layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            queries[:] = [split_heads(output[:, :1], self.heads)]

        def weigh(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            (q,), k = queries, split_heads(output, self.heads)
            record(inputs[0], (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1).mean(1)[:, 0])

        # q runs before k.
        return [layer.register_forward_hook(hook) for layer, hook in ((self.q, keep), (self.k, weigh))]

    @property
    def plain(self) -> bool:
        """Whether neither product has been replaced, as by a quantized one."""
        return isinstance(self.scores, MatMul) and isinstance(self.context, MatMul)


class Attention(AttentionProducts):
    """Multi-head self-attention with separate q, k, v and output projections."""

    first_key: Tensor | None
    """Key [heads, d] of a constant position before the others; see `TextTransformer.fold_constants`."""
    first_value: Tensor | None
    """Value [heads, d] of the same position."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.scores = MatMul()
        self.context = WeightedSum()
        self.register_buffer("first_key", None)
        self.register_buffer("first_value", None)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        """Map [N, L, C] to [N, L, C]; with `causal`, position i attends only to positions 0 to i."""
        q, k, v = (split_heads(t, self.heads) for t in (self.q(x), self.k(x), self.v(x)))
        if self.first_key is None or self.first_value is None:
            return self.out(attend(self, q, k, v, causal))
        return self.out(attend(self, q, k, v, causal, (self.first_key, self.first_value)))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Reshape [N, L, C] to [N, heads, L, C / heads]."""
    n, length, width = x.shape
    return x.view(n, length, heads, width // heads).transpose(1, 2)


def attend(
    module: AttentionProducts,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool = False,
    first: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Compute softmax(q k^T / sqrt(d)) v for each head with the products of an attention layer.

    The factor 1 / sqrt(d) is applied to q before the product, since that is the form that runtimes execute.

    Args:
        module: The layer; its `scores` and `context` are the two products.
        q: Queries [N, heads, L, d].
        k: Keys [N, heads, M, d].
        v: Values [N, heads, M, d].
        causal: Whether position i attends only to positions 0 to i.
        first: Key and value [heads, d] of one more position, to which every query attends; its products are not
            quantized.

    Returns:
        The heads joined, [N, L, heads * d].
    """
    if module.plain and first is None:
        return join_heads(F.scaled_dot_product_attention(q, k, v, is_causal=causal))
    q = q * q.shape[-1] ** -0.5
    scores = module.scores(q, k.transpose(-1, -2))
    if causal:
        length = scores.shape[-1]
        future = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    if first is None:
        return join_heads(module.context(scores.softmax(-1), v))
    weights = torch.cat([q @ first[0][..., None], scores], -1).softmax(-1)
    return join_heads(module.context(weights[..., 1:], v) + weights[..., :1] * first[1][:, None])


def flat_patches(pixels: Tensor, side: int) -> Tensor:
    """Cut pixels [N, C, S, S] into patches [N, S // side, S // side, C side side], without what is left over."""
    n, channels, size, _ = pixels.shape
    grid = size // side
    whole = pixels[..., : grid * side, : grid * side]
    return whole.reshape(n, channels, grid, side, grid, side).permute(0, 2, 4, 1, 3, 5).flatten(3)


def join_heads(x: Tensor) -> Tensor:
    """Reshape [N, heads, L, C / heads] to [N, L, C]."""
    return x.transpose(1, 2).flatten(2)


class MLP(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, width: int, hidden: int, act: Activation) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = activation(act)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


ROW_READERS = ("attn.q", "attn.k", "attn.v", "attn.out", "mlp.fc1", "mlp.fc2")
"""The linear layers of a `Block`, which map each row of the state by itself."""


class Block(Part):
    """Pre-norm residual block: x + attention(norm1(x)), then x + mlp(norm2(x)).

    Args:
        width: Channels C of the state.
        heads: Attention heads.
        hidden: Hidden channels of the MLP.
        act: Activation of the MLP.
        eps: What the norms add to variances.
    """

    def __init__(self, width: int, heads: int, hidden: int, act: Activation, eps: float = NORM_EPS) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = MLP(width, hidden, act)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        """Map [N, L, C] to [N, L, C]; with `causal`, position i attends only to positions 0 to i."""
        x = x + self.attn(self.norm1(x), causal)
        return x + self.mlp(self.norm2(x))

    def channel_axes(self) -> list[ChannelAxis]:
        return [
            ChannelAxis("norm1", writers=("norm1",), readers=("attn.q", "attn.k", "attn.v")),
            ChannelAxis("norm2", writers=("norm2",), readers=("mlp.fc1",)),
        ]

    def rigid_inputs(self) -> list[str]:
        return ["mlp.fc2"]
