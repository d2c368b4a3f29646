"""A file of a layout that computes something else than the towers is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import d4c
from d4c.deployment.layouts.graphs.file_parity import check_file, float_embeddings, graph_embeddings
from d4c.deployment.layouts.graphs.graph_file import JOINT, Form, GraphFile, Ports
from d4c.deployment.layouts.graphs.port_graph import port_graph
from d4c.deployment.onnx.graph import Graph
from d4c.deployment.onnx.parity import probes
from d4c.deployment.onnx.parity_sessions import open_session, run
from d4c.errors import ArtifactError
from d4c.models.clip import CLIP
from d4c.quantization.quantized import QuantizedCLIP
from d4c.runtime.runtime_clip import RuntimeCLIP


@pytest.fixture(scope="module")
def clip(small: Path) -> QuantizedCLIP:
    return d4c.load_quantized(small)


def written(clip: QuantizedCLIP, file: GraphFile, folder: Path) -> tuple[Path, Graph]:
    graph = port_graph(clip, file)
    path = folder / file.path
    path.write_bytes(graph.model("test").SerializeToString())
    return path, graph


FOUR_BITS = {onnx.TensorProto.INT4, onnx.TensorProto.UINT4}
FIXED = Ports("image", "text", "embedding", "embedding", "int32", True, 1, 1, 77)
FILES = {
    "image": GraphFile("a.onnx", ("image",), Ports()),
    "text": GraphFile("a.onnx", ("text",), Ports()),
    "both": GraphFile("a.onnx", ("image", "text"), JOINT),
    "fixed image": GraphFile("a.onnx", ("image",), FIXED),
    "fixed text": GraphFile("a.onnx", ("text",), FIXED, masked=-50.0),
    "bytes": GraphFile("a.onnx", ("image", "text"), JOINT, bytes_only=True),
    "features": GraphFile("a.onnx", ("image",), Ports(), features=True),
}


@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_every_kind_of_file_computes_in_integers(
    file: GraphFile, clip: QuantizedCLIP, ours: RuntimeCLIP, tmp_path: Path
) -> None:
    path, graph = written(clip, file, tmp_path)
    parity = check_file(path, graph, file, clip, graph_embeddings(clip, ours.exported.folder))
    assert parity.cosine_min > 0.999
    assert parity.packed_layers == len(graph.products) > 0
    assert parity.float_layers == {}


def test_an_embedding_of_another_length_is_refused(clip: QuantizedCLIP, ours: RuntimeCLIP, tmp_path: Path) -> None:
    file = GraphFile("a.onnx", ("image",), Ports(unit_length=True))
    path, graph = written(clip, file, tmp_path)
    plain = GraphFile("a.onnx", ("image",), Ports())
    with pytest.raises(ArtifactError, match=r"embedding of the image tower of a\.onnx differently"):
        check_file(path, graph, plain, clip, graph_embeddings(clip, ours.exported.folder))


def test_other_logits_are_refused(clip: QuantizedCLIP, ours: RuntimeCLIP, tmp_path: Path) -> None:
    path, graph = written(clip, FILES["both"], tmp_path)
    graph.constants[f"scalar/{clip.logit_scale}"].raw_data = b"\0\0\0\0"
    path.write_bytes(graph.model("test").SerializeToString())
    with pytest.raises(ArtifactError, match=r"computes logits of a\.onnx differently"):
        check_file(path, graph, FILES["both"], clip, graph_embeddings(clip, ours.exported.folder))


@pytest.mark.parametrize("form", ["weights", "weights16"])
@pytest.mark.parametrize("towers", [("image",), ("text",), ("image", "text")], ids="-".join)
def test_packed_weights_alone_compute_as_pytorch_does_without_rounding_activations(
    form: Form, towers: tuple[str, ...], clip: QuantizedCLIP, tmp_path: Path
) -> None:
    file = GraphFile("a.onnx", towers, JOINT if len(towers) > 1 else Ports(), form)
    path, graph = written(clip, file, tmp_path)
    parity = check_file(path, graph, file, clip, float_embeddings(clip))
    assert parity.cosine_min > (0.99999 if form == "weights" else 0.999)
    assert parity.float_layers == {}
    assert parity.packed_layers == len(graph.products) > 0


@pytest.mark.parametrize("form", ["float32", "float16"])
def test_float_models_compute_as_pytorch_does(form: Form, demo_vit: CLIP, tmp_path: Path) -> None:
    file = GraphFile("a.onnx", ("image",), Ports(), form)
    path = tmp_path / file.path
    graph = port_graph(demo_vit, file)
    path.write_bytes(graph.model("test").SerializeToString())
    parity = check_file(path, graph, file, demo_vit, float_embeddings(demo_vit))
    assert parity.cosine_min > (0.99999 if form == "float32" else 0.9999)
    weights = sum(p.numel() for p in demo_vit.image.parameters())
    assert path.stat().st_size == pytest.approx(weights * (4 if form == "float32" else 2), rel=0.05)


def test_graphs_for_browsers_hold_no_4_bit_types_and_no_more_bytes(clip: QuantizedCLIP, tmp_path: Path) -> None:
    """Its runtime there cannot cast them, and gives the same embeddings bit for bit from pairs of codes."""
    inputs = {"pixel_values": probes(clip, "image").numpy()}
    outputs, sizes = [], []
    for bytes_only in (False, True):
        path, _ = written(clip, GraphFile("a.onnx", ("image",), Ports(), bytes_only=bytes_only), tmp_path)
        four_bits = {tensor.data_type for tensor in onnx.load(path).graph.initializer} & FOUR_BITS
        assert bool(four_bits) is not bytes_only
        outputs.append(run(open_session(path), inputs)[0])
        sizes.append(path.stat().st_size)
    assert np.array_equal(outputs[0], outputs[1])
    assert sizes[1] < sizes[0] + 20_000
