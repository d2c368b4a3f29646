"""Puts the products of a tower into integers; its residual stream is bf16 or float32."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d4c.compiled import can_compile, fused
from d4c.integer.codes import Codes, Rounding, to_codes
from d4c.integer.integer_linear import IntegerLinear
from d4c.integer.products import activation_name
from d4c.models.layers import MLP, Attention, Block, flat_patches, join_heads, split_heads
from d4c.models.pool import LatentPool
from d4c.models.tower import Tower, replace_module
from d4c.quantization.layers.quantized_activations import QuantizedMatMul
from d4c.quantization.layers.quantized_product import QuantizedConv2d, QuantizedLinear
from d4c.quantization.layers.quantized_weight import QuantizedEmbedding


def integer(*layers: nn.Module) -> IntegerLinear:
    """Make one integer product of quantized layers that share an input."""
    return IntegerLinear([cast("QuantizedLinear | QuantizedConv2d", layer) for layer in layers])


def integer_mlp(norm: nn.LayerNorm, mlp: MLP, dtype: torch.dtype) -> IntegerMLP:
    """Put the products of an MLP into integers."""
    return IntegerMLP(norm, integer(mlp.fc1), mlp.act, integer(mlp.fc2), dtype)


def has_class_token(*layers: IntegerLinear) -> bool:
    """Whether some layer has a range for the class token."""
    return any(layer.class_token is not None for layer in layers)


@fused
def norm_codes(
    x: Tensor, weight: Tensor, bias: Tensor, scale: Tensor, zero_point: Tensor, ends: tuple[int, int, int], eps: float
) -> Tensor:
    """Apply LayerNorm to [..., C] and round to the codes of a quantizer with `scale`, `zero_point` and `Codes.ends`."""
    y = F.layer_norm(x.float(), weight.shape, weight, bias, eps)
    return to_codes(y, scale, zero_point, ends)


@fused
def context_codes(
    context: Tensor, step: Tensor, scale: Tensor, zero_point: Tensor, ends: tuple[int, int, int]
) -> Tensor:
    """Round the context [N, heads, L, d], in units of `step`, to codes [N, L, C]."""
    return to_codes(join_heads(context).float() * step, scale, zero_point, ends)


class IntegerAttention(nn.Module):
    """Self-attention with its four projections in integers; its result is added to the residual.

    q, k and v come from one product, each as codes minus its zero point, integers that bf16 represents exactly. Scores
    are sums of products of integers, as in the artifact. The softmax is not rounded to codes, since a fused kernel
    never writes it: the only difference from the artifact beyond the rounding of `dtype`. A class token with ranges of
    its own takes the way of all rows, and then its own, whose result replaces the other.

    Args:
        attn: The quantized attention.
        dtype: Type between the products.
    """

    def __init__(self, attn: Attention, dtype: torch.dtype) -> None:
        super().__init__()
        scores, context = cast(QuantizedMatMul, attn.scores), cast(QuantizedMatMul, attn.context)
        self.heads, self.dtype = attn.heads, dtype
        self.qkv, self.out = integer(attn.q, attn.k, attn.v), integer(attn.out)
        self.wide_class_token = has_class_token(self.qkv, self.out)
        width = self.out.outputs
        factors = ((width // self.heads) ** -0.5, 1.0, 1.0)
        quantizers = [Codes(quantizer) for quantizer in (scores.a, scores.b, context.b)]
        self.rounding = Rounding(list(zip(quantizers, factors, strict=True)), as_int8=False)
        self.scale = float(scores.a.scale * scores.b.scale)
        self.step: Tensor
        self.register_buffer("step", context.b.scale.detach().clone())
        self.grid: Tensor
        self.register_buffer("grid", self.out.codes.grid(self.step))
        self.first_key: Tensor | None
        self.first_value: Tensor | None
        key, value = attn.first_key, attn.first_value
        self.register_buffer("first_key", None if key is None else key * factors[0])
        # In steps of the values' codes, as the context is.
        self.register_buffer("first_value", None if value is None else value[:, None] / self.step)

    def forward(self, norm: nn.LayerNorm, x: Tensor, causal: bool) -> Tensor:
        codes = normed_codes(norm, self.qkv, x)
        if self.first_key is not None and self.first_value is not None:
            context = self._with_first(self.qkv.product(codes, torch.float32), self.first_key, self.first_value)
            codes_out = context_codes(context, self.step, *input_grid(self.out))
            return self.out.product(codes_out, self.dtype, residual=x)
        qkv = self.qkv.product(codes, self.dtype, rounding=self.rounding)
        if not self.wide_class_token:
            return self.out.product(self._without_first(qkv, causal), self.dtype, residual=x)
        token, reader, out = x[:, :1], self.qkv.class_token or self.qkv, self.out.class_token or self.out
        qkv[:, :1] = reader.product(normed_codes(norm, reader, token), self.dtype, rounding=self.rounding)
        y = self.out.product(self._without_first(qkv, causal), self.dtype, residual=x)
        q, k, v = (split_heads(part, self.heads) for part in qkv.chunk(3, -1))
        context = F.scaled_dot_product_attention(q[:, :, :1], k, v, scale=self.scale)
        y[:, :1] = out.product(context_codes(context, self.step, *input_grid(out)), self.dtype, residual=token)
        return y

    def _without_first(self, qkv: Tensor, causal: bool) -> Tensor:
        """Codes of the context, from our own kernel where it takes such an input."""
        if qkv.is_cuda and can_compile() and not causal:
            from d4c.kernels import attention

            if attention.fits(qkv, self.heads):
                return attention.forward(qkv, self.heads, self.scale, self.grid)
        q, k, v = (split_heads(part, self.heads) for part in qkv.chunk(3, -1))
        context = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=self.scale)
        return context_codes(context, self.step, *input_grid(self.out))

    def _with_first(self, qkv: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Causal attention with a first position that all others attend to, for few and short prompts."""
        first = split_heads(qkv.chunk(3, -1)[0], self.heads) @ key[..., None]
        q, k, v = (split_heads(part, self.heads) for part in self.rounding(qkv).chunk(3, -1))
        length = q.shape[2]
        future = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
        scores = (q @ k.transpose(-1, -2) * self.scale).masked_fill(future, float("-inf"))
        weights = torch.cat([first, scores], -1).softmax(-1)
        return weights[..., 1:] @ v + weights[..., :1] * value


class IntegerMLP(nn.Module):
    """x + mlp(norm(x)) with both products in integers."""

    def __init__(
        self, norm: nn.LayerNorm, fc1: IntegerLinear, act: nn.Module, fc2: IntegerLinear, dtype: torch.dtype
    ) -> None:
        super().__init__()
        activation_name(act)  # raises for an activation without a kernel
        self.norm, self.act, self.dtype = norm, act, dtype
        self.fc1, self.fc2 = fc1, fc2
        self.class_token: IntegerMLP | None = None
        if has_class_token(fc1, fc2):
            self.class_token = IntegerMLP(norm, fc1.class_token or fc1, act, fc2.class_token or fc2, dtype)
        self.rounding = Rounding([(self.fc2.codes, 1.0)], as_int8=True)
        if self.fc2.loud is not None:
            self.loud_fc1 = self.fc1.rows(self.fc2.loud_channels)
            self.loud_rounding = Rounding([(self.fc2.loud.codes, 1.0)], as_int8=True)

    def forward(self, x: Tensor) -> Tensor:
        codes = normed_codes(self.norm, self.fc1, x)
        hidden = self.fc1.product(codes, self.dtype, self.act, self.rounding)
        loud = None
        if self.fc2.loud is not None:
            loud = self.loud_fc1.product(codes, self.dtype, self.act, self.loud_rounding)
        y = self.fc2.product(hidden, self.dtype, residual=x, loud=loud)
        if self.class_token is not None:
            y[:, :1] = self.class_token(x[:, :1])
        return y


class IntegerBlock(nn.Module):
    """A transformer block with its six products in integers and a residual stream of `dtype`."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm1, self.dtype = block.norm1, dtype
        self.attn = IntegerAttention(block.attn, dtype)
        self.mlp = integer_mlp(block.norm2, block.mlp, dtype)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        return cast(Tensor, self.mlp(self.attn(self.norm1, x.to(self.dtype), causal)))


class IntegerPool(nn.Module):
    """A `LatentPool` with its products in integers; as in `IntegerAttention`, the softmax is not rounded to codes."""

    def __init__(self, pool: LatentPool) -> None:
        super().__init__()
        self.heads = pool.heads
        scores, context = integer(pool.scores), cast(QuantizedMatMul, pool.context)
        # There are fewer heads than the integer products of GPUs take outputs.
        self.scores = scores.rows(torch.arange(pool.heads, device=scores.weight.device))
        self.v, self.out = integer(pool.v), integer(pool.out)
        self.rounding = Rounding([(Codes(context.b), 1.0)], as_int8=False)
        self.step: Tensor
        self.register_buffer("step", context.b.scale.detach().clone())
        self.mlp = integer_mlp(pool.norm, pool.mlp, torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        codes = self.scores.codes(x)
        weights = self.scores.product(codes, torch.float32)[..., : self.heads].transpose(1, 2).softmax(-1)
        values = self.v.product(codes, torch.float32, rounding=self.rounding)
        context = weights[:, :, None] @ split_heads(values, self.heads)
        y = self.out.product(context_codes(context, self.step, *input_grid(self.out)), torch.float32)
        return cast(Tensor, self.mlp(y.squeeze(1)))


def input_grid(layer: IntegerLinear) -> tuple[Tensor, Tensor, tuple[int, int, int]]:
    """Return scale, zero point and ends of the codes that a layer reads."""
    return layer.codes.scale, layer.codes.zero_point, layer.codes.ends


def normed_codes(norm: nn.LayerNorm, layer: IntegerLinear, x: Tensor) -> Tensor:
    """Return the codes that a layer reads after its norm."""
    return norm_codes(x, norm.weight, norm.bias, *input_grid(layer), norm.eps)


@fused
def patch_codes(pixels: Tensor, side: int, scale: Tensor, zero_point: Tensor, ends: tuple[int, int, int]) -> Tensor:
    """Round pixels [N, C, S, S] to codes of patches [N, S / side, S / side, C side side]."""
    return to_codes(flat_patches(pixels, side), scale, zero_point, ends)


class IntegerPatches(nn.Module):
    """The patch embedding as one product over the pixels of a patch."""

    def __init__(self, conv: QuantizedConv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.side, self.dtype = conv.stride[0], dtype
        self.linear = integer(conv)

    def forward(self, pixels: Tensor) -> Tensor:
        codes = patch_codes(pixels, self.side, *input_grid(self.linear))
        return self.linear.product(codes, self.dtype).permute(0, 3, 1, 2)


class IntegerEmbedding(nn.Module):
    """A token table with one byte per entry."""

    def __init__(self, table: QuantizedEmbedding) -> None:
        super().__init__()
        self.codes: Tensor
        self.scale: Tensor
        self.register_buffer("codes", table.codes.to(torch.int8))
        self.register_buffer("scale", table.weight_scale.clone())

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.codes).float() * F.embedding(tokens, self.scale)


class InFloat(nn.Module):
    """A norm after the blocks, which computes in float32 whatever their type."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.norm(x.float()))


def has_integer_form(tower: Tower) -> bool:
    """Whether `to_integer` can convert every part of a tower: blocks, and a head of which each part has a form."""
    head = [getattr(tower, part) for part in tower.head_parts]
    return all(isinstance(block, Block) for block in tower.blocks) and all(
        isinstance(part, nn.LayerNorm | QuantizedLinear | LatentPool | nn.Identity) for part in head
    )


def head_part(part: nn.Module) -> nn.Module:
    """The form of a part of a head."""
    if isinstance(part, nn.LayerNorm):
        return InFloat(part)
    if isinstance(part, LatentPool):
        return IntegerPool(part)
    return part if isinstance(part, nn.Identity) else integer(part)


def to_integer(tower: Tower, dtype: torch.dtype) -> None:
    """Replace the quantized layers of a tower by integer ones, in place.

    Args:
        tower: A tower for which `has_integer_form` is true.
        dtype: Type between the products.

    Raises:
        SettingError: The tower is of track "paper" or has an activation without a kernel.
    """
    first = tower.get_submodule(tower.first_layer)
    form: nn.Module
    if isinstance(first, QuantizedEmbedding):
        form = IntegerEmbedding(first)
    else:
        form = IntegerPatches(cast(QuantizedConv2d, first), dtype)
    replace_module(tower, tower.first_layer, form)
    tower.blocks = nn.ModuleList(IntegerBlock(cast(Block, block), dtype) for block in tower.blocks)
    for part in tower.head_parts:
        setattr(tower, part, head_part(getattr(tower, part)))
