"""Emits vision and text transformers as ONNX nodes."""

from __future__ import annotations

import numpy as np
import torch
from onnx import TensorProto
from torch import nn

from d4c.deployment.onnx.graph import Graph, Layer
from d4c.deployment.onnx.layer_nodes import activation, embedding, layer_norm, matmul
from d4c.deployment.onnx.linear_nodes import linear
from d4c.deployment.onnx.transformer_nodes import Row, emit_blocks
from d4c.models.pool import LatentPool
from d4c.models.text import TextTransformer
from d4c.models.vit import VisionTransformer


def emit_vision_transformer(g: Graph, pixels: str, tower: VisionTransformer, size: int, output: str) -> None:
    """Emit the nodes of a vision transformer.

    Args:
        g: The graph.
        pixels: Input [batch, 3, S, S].
        tower: The tower.
        size: Side S of the input in pixels.
        output: Name of the embedding [batch, D].
    """
    x = _patches(g, pixels, tower, size)
    length = len(tower.positional_embedding)
    if tower.pooling != "token":
        x = emit_blocks(g, x, tower.blocks, "image", length)
    else:
        first, last = g.integers(0), g.integers(1)

        def one_row(x: str) -> str:
            return g.node("Slice", [x, first, last, g.integers(1)], f"{x}/class")

        x = emit_blocks(g, x, tower.blocks, "image", length, Row(one_row))
        x = g.node("Squeeze", [x, g.integers(1)], "image.head/class")
    if tower.all_states and g.all_rows:
        _read_states(g, "image", tower.norm_post if tower.norm_first else None)
    norm = tower.norm_post
    if tower.norm_first:
        x = _pooled(g, layer_norm(g, x, norm, "image.norm_post"), tower)
    else:
        x = layer_norm(g, _pooled(g, x, tower), norm, "image.norm_post")
    _project(g, x, tower.projection, "image.projection", output)


def _patches(g: Graph, pixels: str, tower: VisionTransformer, size: int) -> str:
    """The rows that enter the first block."""
    conv = tower.patch_embed
    patch = conv.weight.shape[-1]
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
    table = tower.positional_embedding.detach().clone()
    if tower.class_embedding is not None:
        # A first row of zeros, which the class token is added to together with the positions.
        x = g.node("Pad", [x, g.integers(0, 1, 0, 0, 0, 0)], "image.embed/padded")
        table[0] += tower.class_embedding
    x = g.node("Add", [x, g.constant("image.embed/positions", table)], "image.embed/tokens")
    if isinstance(tower.norm_pre, nn.LayerNorm):
        x = layer_norm(g, x, tower.norm_pre, "image.norm_pre")
    return g.state(g.node("Identity", [x], "image.embed"), ["batch", *table.shape])


def _pooled(g: Graph, x: str, tower: VisionTransformer) -> str:
    """The one row [batch, C] that becomes the embedding, from all rows or from itself."""
    if isinstance(tower.pool, LatentPool):
        return _latent_pool(g, x, tower.pool, "image.pool")
    if tower.pooling == "token":
        return x
    if tower.first_patch:
        end = g.integers(len(tower.positional_embedding))
        x = g.node("Slice", [x, g.integers(tower.first_patch), end, g.integers(1)], "image.head/patches")
    return g.node("ReduceMean", [x, g.integers(1)], "image.head/mean", keepdims=0)


def _latent_pool(g: Graph, x: str, pool: LatentPool, name: str) -> str:
    scores = linear(g, x, pool.scores, f"{name}.scores")
    scores = g.node("Transpose", [scores], f"{name}.scores/heads", perm=[0, 2, 1])
    weights = g.node("Softmax", [scores], f"{name}.scores/softmax", axis=-1)
    weights = g.node("Unsqueeze", [weights, g.integers(2)], f"{name}.scores/weights")
    width = len(pool.v.weight)
    v = g.reshape(linear(g, x, pool.v, f"{name}.v"), [0, 0, pool.heads, width // pool.heads], f"{name}.v/split")
    values = g.node("Transpose", [v], f"{name}.v/heads", perm=[0, 2, 1, 3])
    context = matmul(g, weights, values, pool.context, f"{name}.context")
    y = g.reshape(context, [0, 1, width], f"{name}.context/joined")
    y = linear(g, y, pool.out, f"{name}.out")
    y = g.node("Squeeze", [y, g.integers(1)], f"{name}/attended")
    z = layer_norm(g, y, pool.norm, f"{name}.norm")
    z = linear(g, z, pool.mlp.fc1, f"{name}.mlp.fc1")
    z = activation(g, z, pool.mlp.act, f"{name}.mlp.act")
    return g.node("Add", [y, linear(g, z, pool.mlp.fc2, f"{name}.mlp.fc2")], name)


def _project(g: Graph, x: str, projection: nn.Module, name: str, output: str) -> None:
    """The embedding, from the row that becomes it."""
    if isinstance(projection, nn.Identity):
        g.node("Identity", [x], output)
    else:
        linear(g, x, projection, name, output)


def emit_text_transformer(g: Graph, tokens: str, tower: TextTransformer, context: int, output: str) -> None:
    """Emit the nodes of a text transformer.

    Args:
        g: The graph.
        tokens: Input int64 [batch, length], or [batch, context] where every position counts.
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
    rows: int | str = "length_behind_begin" if without_begin else "length"
    if tower.every_position_counts:
        rows = context - without_begin
    x = g.state(g.node("Add", [x, positions], "text.embed"), ["batch", rows, width])
    mask = None
    if tower.causal:
        future = g.constant("text.mask/full", torch.full((context, context), g.masked).triu(1))
        corner = g.node("Concat", [length, length], "text.mask/corner", axis=0)
        mask = g.node("Slice", [future, g.integers(0, 0), corner], "text.mask")
    sizes = g.node("Concat", [g.integers(1), length], "text.mask/sizes", axis=0) if without_begin else None
    x = emit_blocks(g, x, tower.blocks, "text", rows, _pooled_row(g, tokens, tower, mask), mask, sizes)
    if tower.all_states and g.all_rows:
        _read_states(g, "text", tower.norm_final, tower.begin_states)
    x = g.node("Squeeze", [x, g.integers(1)], "text.head/state")
    x = layer_norm(g, x, tower.norm_final, "text.norm_final")
    _project(g, x, tower.projection, "text.projection", output)


def _read_states(g: Graph, tower: str, norm: nn.LayerNorm | None, begin: torch.Tensor | None = None) -> None:
    """Name the states that `Tower.outputs` gives, before and after the last block.

    Args:
        g: The graph, which has the states as they enter the blocks and leave the last one.
        tower: "image" or "text".
        norm: What comes after the last block, if it belongs to these states.
        begin: States of a begin of text that became constant [2, C], which come before the others.
    """
    for i, name in enumerate(("penultimate", "last")):
        state = g.states[i - 2]
        shape: list[int | str] = [size.dim_value or size.dim_param for size in state.type.tensor_type.shape.dim]
        x = state.name
        if begin is not None:
            assert isinstance(shape[1], int)
            shape[1] += 1
            table = torch.zeros(shape[1], begin.shape[1])
            table[0] = begin[i]
            x = g.node("Pad", [x, g.integers(0, 1, 0, 0, 0, 0)], f"{tower}.{name}/padded")
            x = g.node("Add", [x, g.constant(f"{tower}.{name}/begin", table)], f"{tower}.{name}/whole")
        if name == "last" and norm is not None:
            weights = [g.constant(f"{tower}.{name}/{key}", value) for key, value in norm.named_parameters()]
            x = g.node("LayerNormalization", [x, *weights], f"{tower}.{name}/normed", axis=-1, epsilon=norm.eps)
        g.read.append((STATES[name], x, shape))


STATES = {"penultimate": "penultimate_hidden_state", "last": "last_hidden_state"}
"""What graphs call the states of `Tower.outputs`."""


def _pooled_row(g: Graph, tokens: str, tower: TextTransformer, mask: str | None) -> Row:
    """The position that becomes the embedding: the last one, or the first that holds end-of-text."""
    if tower.pooling == "last":
        last, end = g.integers(-1), g.integers(np.iinfo(np.int64).max)

        def last_row(x: str) -> str:
            return g.node("Slice", [x, last, end, g.integers(1)], f"{x}/last")

        row = None if mask is None else g.node("Slice", [mask, last, end, g.integers(0)], "text.mask/last")
        return Row(last_row, row)
    marks = tokens
    if tower.eos_id is not None:
        eos = g.constant("text.end/eos_id", np.array(tower.eos_id, np.int64))
        marks = g.node("Equal", [tokens, eos], "text.end/is_end")
        marks = g.node("Cast", [marks], "text.end/marks", to=TensorProto.INT32)
    # Where no id is known, the largest one ends a prompt.
    position = g.node("ArgMax", [marks], "text.end/position", axis=1, keepdims=1)
    position = g.node("Unsqueeze", [position, g.integers(-1)], "text.end/row")

    def end_of_text(x: str) -> str:
        return g.node("GatherND", [x, position], f"{x}/end", batch_dims=1)

    return Row(end_of_text, None if mask is None else g.node("Gather", [mask, position], "text.mask/end", axis=0))
