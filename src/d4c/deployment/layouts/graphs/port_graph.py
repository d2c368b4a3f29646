"""Builds the graph of a `GraphFile`: the towers' nodes between the inputs and outputs that a tool expects."""

from __future__ import annotations

from onnx import TensorProto

from d4c.deployment.layouts.graphs.graph_file import HALF, GraphFile, Ports
from d4c.deployment.layouts.graphs.half_precision import halve
from d4c.deployment.onnx.graph import Graph, NarrowTable
from d4c.deployment.onnx.tower_graphs import emit_tower
from d4c.errors import SettingError
from d4c.models.clip import CLIP
from d4c.models.resnet import ModifiedResNet


def port_graph(clip: CLIP, file: GraphFile, unpacked: bool = False, narrow_table: NarrowTable | None = None) -> Graph:
    """Build the graph of a file.

    Args:
        clip: The model.
        file: Its towers and ports.
        unpacked: Store weights as int8.
        narrow_table: What to store instead of the token table.

    Returns:
        The graph. Logits, [images, prompts] and its transpose, come before embeddings, as in transformers.

    Raises:
        SettingError: The towers cannot be written in this form.
    """
    packed = file.form in ("weights", "weights16")
    if packed and isinstance(clip.image, ModifiedResNet):
        raise SettingError(f"{clip.name!r} has a ResNet, whose convolutions have no such form; leave out --webgpu.")
    g = Graph(
        "clip",
        unpacked,
        bytes_only=file.bytes_only,
        weights_only=packed,
        narrow_table=narrow_table,
        masked=file.masked,
        all_rows=file.features or len(clip.towers) == 1,
    )
    ports, emit = file.ports, {"image": _emit_image, "text": _emit_text}
    embeddings = {tower: emit[tower](g, clip, ports) for tower in file.towers}
    if len(file.towers) > 1:
        prompts = g.node("Transpose", [embeddings["text"]], "logits/prompts", perm=[1, 0])
        cosines = g.node("MatMul", [embeddings["image"], prompts], "logits/cosines")
        scaled = "logits_per_image" if clip.logit_bias is None else "logits/scaled"
        g.node("Mul", [cosines, g.scalar(clip.logit_scale)], scaled)
        if clip.logit_bias is not None:
            g.node("Add", [scaled, g.scalar(clip.logit_bias)], "logits_per_image")
        g.node("Transpose", ["logits_per_image"], "logits_per_text", perm=[1, 0])
        g.output("logits_per_image", [ports.image_batch, ports.text_batch])
        g.output("logits_per_text", [ports.text_batch, ports.image_batch])
    batches = {"text": ports.text_batch, "image": ports.image_batch}
    for tower, batch in batches.items():
        if tower in embeddings:
            g.output(embeddings[tower], [batch, clip.config.embed_dim])
    for name, state, shape in g.read:
        g.output(g.node("Identity", [state], name), [batches[file.towers[0]], *shape[1:]])
    if file.features:
        _output_states(g, file.towers)
    # Their batch has one name in both towers, and here it may be fixed.
    g.states.clear()
    if file.form in HALF:
        halve(g)
    return g


def _output_states(g: Graph, towers: tuple[str, ...]) -> None:
    """Name what enters each block and what the last one gives as transformers does, and make it outputs."""
    states = list(g.states)
    for tower in towers:
        prefix = f"{tower}_" if len(towers) > 1 else ""
        infos = [state for state in states if state.name.startswith(f"{tower}.")]
        for i, state in enumerate(infos):
            name = f"{prefix}hidden_states.{i}"
            g.node("Identity", [state.name], name)
            # Only names that are the same in all tools are kept for sizes that vary.
            shape = [size.dim_value or f"{tower}_{size.dim_param}" for size in state.type.tensor_type.shape.dim]
            g.output(name, shape)


def _emit_image(g: Graph, clip: CLIP, ports: Ports) -> str:
    shape = [ports.image_batch, 3, clip.image_size, clip.image_size]
    pixels = g.input(ports.pixels, TensorProto.FLOAT, shape)
    return _embedding(g, pixels, clip, "image", ports.image, ports.unit_length)


def _emit_text(g: Graph, clip: CLIP, ports: Ports) -> str:
    kind = {"int32": TensorProto.INT32, "int64": TensorProto.INT64}[ports.ids]
    text = clip.config.text
    length = text.context_length if text.every_position_counts else ports.length
    tokens = g.input(ports.tokens, kind, [ports.text_batch, length])
    if kind != TensorProto.INT64:
        tokens = g.node("Cast", [tokens], "text.ids", to=TensorProto.INT64)
    return _embedding(g, tokens, clip, "text", ports.text, ports.unit_length)


def _embedding(g: Graph, inputs: str, clip: CLIP, tower: str, output: str, unit_length: bool) -> str:
    """The embedding of a tower, divided by its length where that is asked for."""
    if not unit_length:
        emit_tower(g, inputs, clip, tower, output)
        return output
    embedding = f"{tower}.embedding"
    emit_tower(g, inputs, clip, tower, embedding)
    length = g.node("ReduceL2", [embedding, g.integers(-1)], f"{tower}.embedding/length", keepdims=1)
    return g.node("Div", [embedding, length], output)
