"""Converts graphs to OpenVINO's own files, and checks that these compute what the graphs do, in integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d4c.deployment.layouts.graphs.file_parity import LEAST_COSINE, FileParity, different, needs_wide_sums, padded_feeds
from d4c.deployment.layouts.graphs.graph_file import GraphFile
from d4c.deployment.onnx.parity import probes
from d4c.deployment.onnx.parity_sessions import open_session, run
from d4c.models.clip import CLIP
from d4c.reading.onnx_graph import ORIGIN
from d4c.runtime.openvino_convolutions import use_convolutions
from d4c.zeroshot.classification import unit_rows

PRODUCTS = ("FullyConnected", "Convolution")
"""Kinds of nodes that multiply by weights. Attention is fused, and in floating point."""


def convert(graph: Path, path: Path, origin: str, *, convolutions: bool = False) -> None:
    """Write an ONNX file as path, which ends in .xml, and its weights beside it.

    The converter `openvino.convert_model` would fold 4-bit weights to 8 bits; reading alone does not.

    Args:
        graph: The ONNX file.
        path: The file to write.
        origin: SHA-256 of the artifact's weights.
        convolutions: Write linear layers as convolutions, see `d4c.runtime.openvino_convolutions`.
    """
    import openvino

    model = openvino.Core().read_model(graph)
    if convolutions:
        use_convolutions(model)
    model.set_rt_info(origin, ORIGIN.split("."))
    openvino.save_model(model, path, compress_to_fp16=False)


def check_in_openvino(path: Path, graph: Path, file: GraphFile, clip: CLIP) -> FileParity:
    """Compare a converted file with the graph that it was made from.

    Args:
        path: The file that `convert` wrote.
        graph: The ONNX file.
        file: Its towers and ports.
        clip: The artifact in PyTorch.

    Returns:
        The comparison. Layers are what OpenVINO fuses them to: q, k and v may be one.

    Raises:
        ArtifactError: OpenVINO computes something else.
    """
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    rows = slice(0, 1 if file.ports.image_batch == 1 else None)
    inputs = {tower: probes(clip, tower).numpy()[rows] for tower in file.towers}
    feeds = padded_feeds(file.ports, inputs, clip.config.text.context_length)
    wide_sums = file.form == "integers" and needs_wide_sums(clip)
    session = open_session(graph, wide_sums=wide_sums)
    names = [output.name for output in session.get_outputs()]
    expected = dict(zip(names, run(session, feeds), strict=True))
    results: dict[str, NDArray[Any]] = {name: np.array(compiled(feeds)[name]) for name in names}
    cosines = []
    for tower in file.towers:
        name = {"image": file.ports.image, "text": file.ports.text}[tower]
        cosines.append(float((unit_rows(results[name]) * unit_rows(expected[name])).sum(-1).min()))
        if not cosines[-1] >= LEAST_COSINE[file.form]:
            raise different("OpenVINO", path, f"the embedding of the {tower} tower", f"cosine {cosines[-1]:.4f}")
    if file.form != "integers":
        return FileParity(file.form, min(cosines), 0, {})
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kinds = {
        str(info["originalLayersNames"].value).partition(",")[0]: str(info["primitiveType"].value)
        for info in infos
        if info["layerType"].value in PRODUCTS
    }
    kinds = {layer: kind for layer, kind in kinds.items() if not layer.startswith("logits/")}
    in_float = {layer: kind for layer, kind in kinds.items() if not kind.upper().endswith("I8")}
    return FileParity(file.form, min(cosines), len(kinds) - len(in_float), in_float)
