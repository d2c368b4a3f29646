"""Emits the blocks of transformers as ONNX nodes.

Where one row of the last block reaches the embedding, such as the class token or the end of a prompt, this block
computes keys and values of all rows, and everything else of that row only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from d4c.deployment.onnx.graph import Graph
from d4c.deployment.onnx.layer_nodes import activation, layer_norm, matmul
from d4c.deployment.onnx.linear_nodes import Scaled, joint_linear, linear
from d4c.models.layers import Attention, Block
from d4c.models.resnet import AttentionPool


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


def emit_blocks(
    g: Graph,
    x: str,
    blocks: nn.ModuleList,
    tower: str,
    length: int | str,
    row: Row | None = None,
    mask: str | None = None,
    sizes: str | None = None,
) -> str:
    """Emit the blocks of a tower.

    Args:
        g: The graph.
        x: What enters the first block [batch, length, C].
        blocks: The blocks.
        tower: "image" or "text".
        length: Number of rows, or what the graph calls it.
        row: The only row that reaches the embedding, if there is one; computed alone unless the graph has all rows.
        mask: Causal mask that is added to the scores.
        sizes: Tensor with the numbers of constant first and of other positions.

    Returns:
        The state after the last block, of one row [batch, 1, C] or of all.
    """
    for i, block in enumerate(blocks):
        assert isinstance(block, Block)
        only = row if i == len(blocks) - 1 and not g.all_rows else None
        x = _block(g, x, block, f"{tower}.blocks.{i}", mask, sizes, only)
        g.state(x, ["batch", length if only is None else 1, len(block.norm1.weight)])
    return row.pick(x) if row is not None and g.all_rows else x


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
    y = linear(g, y, block.mlp.fc1, f"{name}.mlp.fc1", one_row=row is not None)
    y = activation(g, y, block.mlp.act, f"{name}.mlp.act")
    y = linear(g, y, block.mlp.fc2, f"{name}.mlp.fc2", one_row=row is not None)
    return g.node("Add", [x, y], name)


def _attention(g: Graph, query: str, x: str, attn: Attention, name: str, mask: str | None, sizes: str | None) -> str:
    """Attention of `query`, which is x or one row of it, over x."""
    q, k, v = (f"{name}.{part}" for part in "qkv")
    factor = query_factor(attn)
    shared: dict[str, Scaled] = {k: (attn.k, 1.0), v: (attn.v, 1.0)}
    if mask is not None and query == x:
        joint_linear(g, x, {q: (attn.q, factor), **shared}, f"{name}.qkv")
    else:
        linear(g, query, attn.q, q, factor=factor, one_row=query != x)
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
    return linear(g, attend(g, q, k, v, attn, name, mask, first), attn.out, f"{name}.out", one_row=query != x)


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
