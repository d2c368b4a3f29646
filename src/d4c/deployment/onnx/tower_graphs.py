"""Builds the ONNX graphs of the towers of an artifact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnx import TensorProto

from d4c.deployment.onnx.graph import Graph, NarrowTable
from d4c.deployment.onnx.resnet_nodes import emit_resnet
from d4c.deployment.onnx.transformer_towers import emit_text_transformer, emit_vision_transformer
from d4c.errors import SettingError
from d4c.models.clip import CLIP
from d4c.models.resnet import ModifiedResNet
from d4c.models.text import TextTransformer
from d4c.models.tower import Tower
from d4c.models.vit import VisionTransformer

OUTPUT = "embedding"

EMITTERS: dict[type[Tower], Callable[[Graph, str, Any, int, str], None]] = {
    VisionTransformer: emit_vision_transformer,
    ModifiedResNet: emit_resnet,
    TextTransformer: emit_text_transformer,
}
"""Emit the nodes of each kind of tower, from the graph, its input, the module, the size of the input and its output."""


def emit_tower(g: Graph, inputs: str, clip: CLIP, name: str, output: str) -> None:
    """Emit the "image" or the "text" tower.

    Args:
        g: The graph.
        inputs: Normalized pixels, float32 [batch, 3, S, S], or tokens, int64 [batch, length].
        clip: The model.
        name: The tower.
        output: Name of the embedding [batch, D], not of unit length.

    Raises:
        SettingError: The tower is of a kind without an emitter.
    """
    tower = clip.tower(name)
    if type(tower) not in EMITTERS:
        kinds = ", ".join(kind.__name__ for kind in EMITTERS)
        raise SettingError(
            f"The {name} tower of {clip.name!r} is a {type(tower).__name__}, and only {kinds} can be written as ONNX; "
            "add a function that emits its nodes to EMITTERS."
        )
    size = clip.image_size if name == "image" else clip.config.text.context_length
    EMITTERS[type(tower)](g, inputs, tower, size, output)


def image_graph(clip: CLIP, unpacked: bool = False) -> Graph:
    """Build the graph from normalized `pixels` [batch, 3, S, S] to `embedding` [batch, D], not of unit length."""
    g = Graph("image", unpacked)
    size = clip.image_size
    pixels = g.input("pixels", TensorProto.FLOAT, ["batch", 3, size, size])
    emit_tower(g, pixels, clip, "image", OUTPUT)
    g.output(OUTPUT, ["batch", clip.config.embed_dim])
    return g


def text_graph(clip: CLIP, unpacked: bool = False, narrow_table: NarrowTable | None = None) -> Graph:
    """Build the graph from `tokens`, int64 [batch, length], to `embedding` [batch, D], not of unit length.

    The length may be any up to the context length that holds the end-of-text of every row. Positions after it do not
    reach the output, so callers crop the batch after its longest prompt. Where every position counts, it is the context
    length.
    """
    g = Graph("text", unpacked, narrow_table=narrow_table)
    text = clip.config.text
    length = text.context_length if text.every_position_counts else "length"
    tokens = g.input("tokens", TensorProto.INT64, ["batch", length])
    emit_tower(g, tokens, clip, "text", OUTPUT)
    g.output(OUTPUT, ["batch", clip.config.embed_dim])
    return g
