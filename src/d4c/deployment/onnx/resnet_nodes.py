"""Emits OpenAI's ModifiedResNet as ONNX nodes."""

from __future__ import annotations

from torch import nn

from d4c.deployment.onnx.graph import Graph
from d4c.deployment.onnx.layer_nodes import add, average_pool, batch_norm, conv, pool_factor
from d4c.deployment.onnx.linear_nodes import linear
from d4c.deployment.onnx.transformer_nodes import attend, query_factor
from d4c.models.resnet import AttentionPool, Bottleneck, Downsample, ModifiedResNet, Stem


def emit_resnet(g: Graph, pixels: str, tower: ModifiedResNet, size: int, output: str) -> None:
    """Emit the nodes of a ResNet tower.

    Args:
        g: The graph.
        pixels: Input [batch, 3, S, S].
        tower: The tower.
        size: Side S of the input in pixels.
        output: Name of the embedding [batch, D].
    """
    side = size // 4
    x = _stem(g, pixels, tower.stem, "image.stem")
    x = g.state(g.node("Identity", [x], "image.embed"), ["batch", len(tower.stem.conv3.weight), side, side])
    for i, block in enumerate(tower.blocks):
        assert isinstance(block, Bottleneck)
        side //= pool_factor(block.pool)
        x = g.state(_bottleneck(g, x, block, f"image.blocks.{i}"), ["batch", len(block.conv3.weight), side, side])
    _attention_pool(g, x, tower.pool, "image.pool", output)


def _stem(g: Graph, x: str, stem: Stem, name: str) -> str:
    x = _normed(g, x, stem.conv1, stem.bn1, name, 1, relu=True)
    x = _normed(g, x, stem.conv2, stem.bn2, name, 2, relu=True)
    x = _normed(g, x, stem.conv3, stem.bn3, name, 3, relu=True)
    return average_pool(g, x, stem.pool, f"{name}.pool")


def _bottleneck(g: Graph, x: str, block: Bottleneck, name: str) -> str:
    y = _normed(g, x, block.conv1, block.bn1, name, 1, relu=True)
    y = _normed(g, y, block.conv2, block.bn2, name, 2, relu=True)
    y = _normed(g, average_pool(g, y, block.pool, f"{name}.pool"), block.conv3, block.bn3, name, 3, relu=False)
    shortcut = x if block.downsample is None else _shortcut(g, x, block.downsample, f"{name}.downsample")
    return g.node("Relu", [add(g, y, shortcut, block.add, f"{name}.add")], name)


def _shortcut(g: Graph, x: str, shortcut: Downsample, name: str) -> str:
    x = conv(g, average_pool(g, x, shortcut.pool, f"{name}.pool"), shortcut.conv, f"{name}.conv")
    return batch_norm(g, x, shortcut.bn, f"{name}.bn")


def _normed(g: Graph, x: str, layer: nn.Module, norm: nn.Module, name: str, i: int, *, relu: bool) -> str:
    y = batch_norm(g, conv(g, x, layer, f"{name}.conv{i}"), norm, f"{name}.bn{i}")
    return g.node("Relu", [y], f"{name}.relu{i}") if relu else y


def _attention_pool(g: Graph, x: str, pool: AttentionPool, name: str, output: str) -> None:
    width = pool.positional_embedding.shape[1]
    x = g.reshape(x, [0, width, -1], f"{name}/flat")
    x = g.node("Transpose", [x], f"{name}/rows", perm=[0, 2, 1])
    mean = g.node("ReduceMean", [x, g.integers(1)], f"{name}/mean")
    x = g.node("Concat", [mean, x], f"{name}/tokens", axis=1)
    x = g.node("Add", [x, g.constant(f"{name}/positions", pool.positional_embedding)], f"{name}/input")
    first = g.node("Slice", [x, g.integers(0), g.integers(1), g.integers(1)], f"{name}/query")
    q = linear(g, first, pool.q, f"{name}.q", factor=query_factor(pool))
    k, v = (linear(g, x, layer, f"{name}.{part}") for part, layer in (("k", pool.k), ("v", pool.v)))
    y = linear(g, attend(g, q, k, v, pool, name), pool.out, f"{name}.out")
    g.node("Squeeze", [y, g.integers(1)], output)
