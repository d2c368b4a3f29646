"""Emits vision and text transformers as ONNX nodes.

One row of the last block reaches the embedding: the class token, or the end of a prompt. So this block computes keys
and values of all rows, and everything else of that row only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor, nn

from d4c.deployment.onnx.graph import Graph, Layer
from d4c.deployment.onnx.layer_nodes import Scaled, activation, embedding, joint_linear, layer_norm, linear, matmul
from d4c.models.layers import Attention, Block
from d4c.models.resnet import AttentionPool
from d4c.models.text import TextTransformer
from d4c.models.vit import VisionTransformer


@dataclass(frozen=True)
class First:
    """A first position that all others attend to, with a constant key and value; its products stay float.

    Args:
        key: Its key [heads, d].
        value: Its value [heads, d].
        sizes: Tensor with the numbers of first and of other positions: 1 and the length.
    """

    key: Tensor
    value: Tensor
    sizes: str


@dataclass(frozen=True)
class Row:
    """The row of each sample that reaches the embedding.

    Args:
        pick: Emits the nodes that take it from a tensor [batch, length, C], as [batch, 1, C].
        mask: Its row of the causal mask, if there is one.
    """

    pick: Callable[[str], str]
    mask: str | None = None


def emit_vision_transformer(g: Graph, pixels: str, tower: VisionTransformer, size: int, output: str) -> None:
    """Emit the nodes of a vision transformer.

    Args:
        g: The graph.
        pixels: Input [batch, 3, S, S].
        tower: The tower.
        size: Side S of the input in pixels.
        output: Name of the embedding [batch, D].
    """
    conv = tower.patch_embed
    patch = conv.weight.shape[-1]
    width = conv.weight.shape[0]
    side = size // patch
    x = pixels
    if size % patch:
        # The convolution does not reach the last rows and columns.
        cut = g.integers(0, 0), g.integers(side * patch, side * patch), g.integers(2, 3)
        x = g.node("Slice", [x, *cut], "image.embed/cropped")
    x = g.reshape(x, [0, 3, side, patch, side, patch], "image.embed/grid")
    x = g.node("Transpose", [x], "image.embed/patches", perm=[0, 2, 4, 1, 3, 5])
    x = g.reshape(x, [0, side * side, 3 * patch * patch], "image.embed/flat_patches")
    x = linear(g, x, conv, "image.patch_embed")
    g.layers["image.patch_embed"] = Layer((pixels,), x)  # what the convolution reads
    # A first row of zeros, which the class token is added to together with the positions.
    x = g.node("Pad", [x, g.integers(0, 1, 0, 0, 0, 0)], "image.embed/padded")
    table = tower.positional_embedding.detach().clone()
    table[0] += tower.class_embedding
    x = g.node("Add", [x, g.constant("image.embed/positions", table)], "image.embed/tokens")
    x = layer_norm(g, x, tower.norm_pre, "image.norm_pre")
    length = side * side + 1
    x = g.state(g.node("Identity", [x], "image.embed"), ["batch", length, width])

    def class_token(x: str) -> str:
        return g.node("Slice", [x, g.integers(0), g.integers(1), g.integers(1)], f"{x}/class")

    x = _blocks(g, x, tower.blocks, "image", length, Row(class_token))
    x = g.node("Squeeze", [x, g.integers(1)], "image.head/class")
    x = layer_norm(g, x, tower.norm_post, "image.norm_post")
    linear(g, x, tower.projection, "image.projection", output)


def emit_text_transformer(g: Graph, tokens: str, tower: TextTransformer, context: int, output: str) -> None:
    """Emit the nodes of a text transformer.

    Args:
        g: The graph.
        tokens: Input int64 [batch, length].
        tower: The tower.
        context: Largest length.
        output: Name of the embedding [batch, D].
    """
    width = tower.positional_embedding.shape[1]
    without_begin = int(tower.begin_id is not None)
    if without_begin:
        # The begin-of-text position has no state; the blocks keep its keys and values.
        tokens = g.node("Slice", [tokens, g.integers(1), g.integers(context), g.integers(1)], "text.embed/tokens")
    length = g.node("Shape", [tokens], "text.embed/length", start=1, end=2)
    x = embedding(g, tokens, tower.token_embedding, "text.token_embedding")
    table = g.constant("text.embed/table", tower.positional_embedding[without_begin:])
    positions = g.node("Slice", [table, g.integers(0), length, g.integers(0)], "text.embed/positions")
    length_name = "length_behind_begin" if without_begin else "length"
    x = g.state(g.node("Add", [x, positions], "text.embed"), ["batch", length_name, width])
    future = g.constant("text.mask/full", torch.full((context, context), float("-inf")).triu(1))
    corner = g.node("Concat", [length, length], "text.mask/corner", axis=0)
    mask = g.node("Slice", [future, g.integers(0, 0), corner], "text.mask")
    sizes = g.node("Concat", [g.integers(1), length], "text.mask/sizes", axis=0) if without_begin else None
    # The first position that holds end-of-text, or where no id is known the largest one.
    marks = tokens
    if tower.eos_id is not None:
        end = g.constant("text.end/eos_id", np.array(tower.eos_id, np.int64))
        marks = g.node("Equal", [tokens, end], "text.end/is_end")
        marks = g.node("Cast", [marks], "text.end/marks", to=TensorProto.INT32)
    position = g.node("ArgMax", [marks], "text.end/position", axis=1, keepdims=1)
    position = g.node("Unsqueeze", [position, g.integers(-1)], "text.end/row")

    def end_of_text(x: str) -> str:
        return g.node("GatherND", [x, position], f"{x}/end", batch_dims=1)

    row = Row(end_of_text, g.node("Gather", [mask, position], "text.mask/end", axis=0))
    x = _blocks(g, x, tower.blocks, "text", length_name, row, mask, sizes)
    x = g.node("Squeeze", [x, g.integers(1)], "text.head/state")
    x = layer_norm(g, x, tower.norm_final, "text.norm_final")
    linear(g, x, tower.projection, "text.projection", output)


def _blocks(
    g: Graph,
    x: str,
    blocks: nn.ModuleList,
    tower: str,
    length: int | str,
    row: Row,
    mask: str | None = None,
    sizes: str | None = None,
) -> str:
    """The one row that reaches the embedding, after the last block: [batch, 1, C]."""
    for i, block in enumerate(blocks):
        assert isinstance(block, Block)
        last = i == len(blocks) - 1
        x = _block(g, x, block, f"{tower}.blocks.{i}", mask, sizes, row if last else None)
        g.state(x, ["batch", 1 if last else length, len(block.norm1.weight)])
    return x


def _block(
    g: Graph, x: str, block: Block, name: str, mask: str | None, sizes: str | None, row: Row | None = None
) -> str:
    """The state after a block, of all rows or of one."""
    y = query = layer_norm(g, x, block.norm1, f"{name}.norm1")
    if row is not None:
        x, query, mask = row.pick(x), row.pick(y), row.mask
        g.rows += [x, query]
    y = _attention(g, query, y, block.attn, f"{name}.attn", mask, sizes)
    x = g.node("Add", [x, y], f"{name}/attended")
    y = layer_norm(g, x, block.norm2, f"{name}.norm2")
    y = linear(g, y, block.mlp.fc1, f"{name}.mlp.fc1")
    y = activation(g, y, block.mlp.act, f"{name}.mlp.act")
    y = linear(g, y, block.mlp.fc2, f"{name}.mlp.fc2")
    return g.node("Add", [x, y], name)


def _attention(g: Graph, query: str, x: str, attn: Attention, name: str, mask: str | None, sizes: str | None) -> str:
    """Attention of `query`, which is x or one row of it, over x."""
    q, k, v = (f"{name}.{part}" for part in "qkv")
    factor = query_factor(attn)
    shared: dict[str, Scaled] = {k: (attn.k, 1.0), v: (attn.v, 1.0)}
    if mask is not None and query == x:
        joint_linear(g, x, {q: (attn.q, factor), **shared}, f"{name}.qkv")
    else:
        linear(g, query, attn.q, q, factor=factor)
        if mask is not None:
            joint_linear(g, x, shared, f"{name}.kv")
        else:
            # Splitting the rows of all patches takes more time than one wide product saves.
            linear(g, x, attn.k, k)
            linear(g, x, attn.v, v)
    first = None
    if sizes is not None:
        assert attn.first_key is not None
        assert attn.first_value is not None
        first = First(attn.first_key, attn.first_value, sizes)
    return linear(g, attend(g, q, k, v, attn, name, mask, first), attn.out, f"{name}.out")


def query_factor(module: Attention | AttentionPool) -> float:
    """Return 1 / sqrt(d), which is folded into the weight of q, so that no node has to multiply."""
    return float((len(module.q.weight) // module.heads) ** -0.5)


def attend(
    g: Graph,
    q: str,
    k: str,
    v: str,
    module: Attention | AttentionPool,
    name: str,
    mask: str | None = None,
    first: First | None = None,
) -> str:
    """Emit softmax(q k^T) v over heads.

    Args:
        g: The graph.
        q: Queries times `query_factor` [batch, length, C].
        k: Keys [batch, length, C].
        v: Values [batch, length, C].
        module: The attention, with its quantized products.
        name: Name of the attention.
        mask: Causal mask that is added to the scores.
        first: A first position that all others attend to.

    Returns:
        The joined heads [batch, length, C].
    """
    width = len(module.k.weight)
    depth = width // module.heads

    def heads(x: str, perm: list[int]) -> str:
        split = g.reshape(x, [0, 0, module.heads, depth], f"{x}/split")
        return g.node("Transpose", [split], f"{x}/heads", perm=perm)

    queries = heads(q, [0, 2, 1, 3])
    scores = matmul(g, queries, heads(k, [0, 2, 3, 1]), module.scores, f"{name}.scores")
    if mask is not None:
        scores = g.node("Add", [scores, mask], f"{name}.scores/masked")
    if first is not None:
        # One dot product per query: too little for a matrix product.
        scores_of_first = g.node(
            "Mul", [queries, g.constant(f"{name}/first_key", first.key[:, None])], f"{name}.first/products"
        )
        scores_of_first = g.node("ReduceSum", [scores_of_first, g.integers(-1)], f"{name}.first/scores", keepdims=1)
        scores = g.node("Concat", [scores_of_first, scores], f"{name}.first/all_scores", axis=-1)
    attention = g.node("Softmax", [scores], f"{name}.scores/softmax", axis=-1)
    weight = attention
    if first is not None:
        weight, attention = g.split(attention, first.sizes, [f"{name}.first/weights", f"{name}.scores/weights"])
    context = matmul(g, attention, heads(v, [0, 2, 1, 3]), module.context, f"{name}.context")
    if first is not None:
        value = g.constant(f"{name}/first_value", first.value[:, None])
        value = g.node("Mul", [weight, value], f"{name}.first/context")
        context = g.node("Add", [context, value], f"{name}.first/joined")
    context = g.node("Transpose", [context], f"{name}.context/rows", perm=[0, 2, 1, 3])
    return g.reshape(context, [0, 0, width], f"{name}.context/joined")
