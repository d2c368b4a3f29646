"""The towers of an artifact as ONNX graphs."""

from __future__ import annotations

from onnx import TensorProto

from d4c.deployment.onnx.graph import Graph
from d4c.deployment.onnx.resnet_nodes import emit_resnet
from d4c.deployment.onnx.transformer_nodes import emit_text_transformer, emit_vision_transformer
from d4c.models.clip import CLIP
from d4c.models.vit import VisionTransformer

OUTPUT = "embedding"


def image_graph(clip: CLIP, unpacked: bool = False) -> Graph:
    """`pixels` [batch, 3, S, S], normalized, to `embedding` [batch, D], not of unit length."""
    g = Graph("image", unpacked)
    size = clip.image_size
    pixels = g.input("pixels", TensorProto.FLOAT, ["batch", 3, size, size])
    if isinstance(clip.image, VisionTransformer):
        emit_vision_transformer(g, pixels, clip.image, size, OUTPUT)
    else:
        emit_resnet(g, pixels, clip.image, size, OUTPUT)
    g.output(OUTPUT, ["batch", clip.config.embed_dim])
    return g


def text_graph(clip: CLIP, unpacked: bool = False) -> Graph:
    """`tokens` int64 [batch, length] to `embedding` [batch, D], not of unit length.

    Any length up to the context length that holds the end-of-text of every row will do: positions behind it do not
    reach the output, so whoever calls crops the batch behind its longest prompt.
    """
    g = Graph("text", unpacked)
    tokens = g.input("tokens", TensorProto.INT64, ["batch", "length"])
    emit_text_transformer(g, tokens, clip.text, OUTPUT)
    g.output(OUTPUT, ["batch", clip.config.embed_dim])
    return g
