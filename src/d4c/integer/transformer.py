"""The towers of a quantized CLIP with their products in integers; the residual stream is bf16 or float32."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d4c.integer.linear import Codes, IntegerLinear
from d4c.models.layers import Block, join_heads, split_heads
from d4c.models.text import TextTransformer
from d4c.models.vit import VisionTransformer
from d4c.quantization.layers import QuantizedConv2d, QuantizedEmbedding, QuantizedLinear, QuantizedMatMul


def integer(*layers: nn.Module) -> IntegerLinear:
    """One integer product for quantized layers that share an input."""
    return IntegerLinear([cast("QuantizedLinear | QuantizedConv2d", layer) for layer in layers])


class BeforeAttention(nn.Module):
    """Norm, then q, k and v from one product, each as codes less its zero point: whole numbers that bf16 holds.

    Where the block keeps a first position, its scores [N, heads, L, 1] come with them.
    """

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        super().__init__()
        attn = block.attn
        scores, context = cast(QuantizedMatMul, attn.scores), cast(QuantizedMatMul, attn.context)
        self.norm, self.heads, self.dtype = block.norm1, attn.heads, dtype
        self.qkv = integer(attn.q, attn.k, attn.v)
        self.codes = nn.ModuleList(Codes(quantizer) for quantizer in (scores.a, scores.b, context.b))
        self.first_key: Tensor | None
        self.register_buffer("first_key", attn.first_key)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(self.norm(x.float())).chunk(3, -1))
        q = q * q.shape[-1] ** -0.5
        first = None if self.first_key is None else q @ self.first_key[..., None]
        parts = zip(self.codes, (q, k, v), strict=True)
        q, k, v = (cast(Codes, codes).centred(part, self.dtype) for codes, part in parts)
        return q, k, v, first


class BehindAttention(nn.Module):
    """The output projection, and the MLP half of the block."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        super().__init__()
        attn, mlp = block.attn, block.mlp
        self.dtype, self.norm, self.act = dtype, block.norm2, mlp.act
        self.out, self.fc1, self.fc2 = integer(attn.out), integer(mlp.fc1), integer(mlp.fc2)
        self.scale: Tensor
        self.register_buffer("scale", cast(QuantizedMatMul, attn.context).b.scale.detach().clone())

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.out(join_heads(context).float() * self.scale)
        return (x + self.fc2(self.act(self.fc1(self.norm(x))))).to(self.dtype)


class IntegerBlock(nn.Module):
    """A block with its six products in integers.

    Scores are sums of products of whole numbers, as in the artifact. The softmax is not rounded to codes, since a
    fused kernel never writes it down: the one place that is closer to the float model than the artifact says.
    """

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        super().__init__()
        attn = block.attn
        scores, context = cast(QuantizedMatMul, attn.scores), cast(QuantizedMatMul, attn.context)
        self.scale = float(scores.a.scale * scores.b.scale)
        self.before, self.behind = BeforeAttention(block, dtype), BehindAttention(block, dtype)
        self.first_value: Tensor | None
        value = attn.first_value
        # In steps of the values' codes, which `behind` multiplies with their scale.
        self.register_buffer("first_value", None if value is None else value[:, None] / context.b.scale.detach())

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        q, k, v, first = self.before(x)
        if first is None or self.first_value is None:
            context = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=self.scale)
        else:
            context = self._with_first(q, k, v, first, self.first_value)
        return cast(Tensor, self.behind(x, context))

    def _with_first(self, q: Tensor, k: Tensor, v: Tensor, first: Tensor, value: Tensor) -> Tensor:
        """Causal attention with one more position that all see: few and short prompts, written out."""
        length = q.shape[2]
        future = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
        scores = (q.float() @ k.float().transpose(-1, -2) * self.scale).masked_fill(future, float("-inf"))
        weights = torch.cat([first, scores], -1).softmax(-1)
        return weights[..., 1:] @ v.float() + weights[..., :1] * value


class IntegerPatches(nn.Module):
    """The patch embedding as one product over the pixels of a patch."""

    def __init__(self, conv: QuantizedConv2d) -> None:
        super().__init__()
        self.side = conv.stride[0]
        self.product = integer(conv)

    def forward(self, pixels: Tensor) -> Tensor:
        n, channels, size, _ = pixels.shape
        grid = size // self.side
        patches = pixels.view(n, channels, grid, self.side, grid, self.side).permute(0, 2, 4, 1, 3, 5).flatten(3)
        return cast(Tensor, self.product(patches)).permute(0, 3, 1, 2)


class IntegerEmbedding(nn.Module):
    """A token table of one byte an entry."""

    def __init__(self, table: QuantizedEmbedding) -> None:
        super().__init__()
        self.codes: Tensor
        self.scale: Tensor
        self.register_buffer("codes", table.codes.to(torch.int8))
        self.register_buffer("scale", table.weight_scale.clone())

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.codes).float() * F.embedding(tokens, self.scale)


def to_integer(tower: VisionTransformer | TextTransformer, dtype: torch.dtype) -> None:
    """Replace the quantized layers of a tower by integer ones, in place."""
    if isinstance(tower, VisionTransformer):
        tower.patch_embed = IntegerPatches(cast(QuantizedConv2d, tower.patch_embed))  # type: ignore[assignment]
    else:
        tower.token_embedding = IntegerEmbedding(tower.token_embedding)  # type: ignore[assignment, arg-type]
    tower.blocks = nn.ModuleList(IntegerBlock(cast(Block, block), dtype) for block in tower.blocks)
    tower.projection = integer(tower.projection)  # type: ignore[assignment]
