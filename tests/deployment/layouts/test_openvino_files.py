"""OpenVINO's own files keep 4-bit weights packed, in both forms, and compute in integers; a wrong one is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import openvino
import pytest

import d4c
from d4c.deployment.layouts.graphs.file_parity import FileParity
from d4c.deployment.layouts.graphs.openvino_parity import check_in_openvino, convert
from d4c.deployment.layouts.graphs.port_graph import port_graph
from d4c.deployment.layouts.openvino_files import FILES
from d4c.errors import ArtifactError
from d4c.quantization.quantized import QuantizedCLIP


def test_files_have_the_ports_that_optimum_intel_feeds(export_for: Callable[..., Path]) -> None:
    folder = export_for("openvino")
    found = {}
    for file in FILES:
        model = openvino.Core().read_model((folder / file.path).with_suffix(".xml"))
        found[Path(file.path).stem] = [x.any_name for x in model.inputs], [x.any_name for x in model.outputs]
    outputs = ["logits_per_image", "logits_per_text", "text_embeds", "image_embeds"]
    assert found == {
        "openvino_model": (["pixel_values", "input_ids"], outputs),
        "openvino_model_vision": (["x"], ["image_features"]),
        "openvino_model_text": (["text"], ["text_features"]),
    }


@pytest.fixture(scope="module")
def clip(small: Path) -> QuantizedCLIP:
    return d4c.load_quantized(small)


@pytest.mark.parametrize("without_vnni", [False, True], ids=["any processor", "without VNNI"])
@pytest.mark.parametrize("tower", ["image", "text"])
def test_products_are_integers(
    tower: str, without_vnni: bool, clip: QuantizedCLIP, export_for: Callable[..., Path], tmp_path: Path
) -> None:
    file = {"image": FILES[1], "text": FILES[2]}[tower]
    graph = tmp_path / "graph.onnx"
    layout = export_for("openvino", without_vnni=without_vnni)
    graph.write_bytes(port_graph(clip, file).model("test").SerializeToString())
    parity = check_in_openvino((layout / file.path).with_suffix(".xml"), graph, file, clip)
    assert isinstance(parity, FileParity)
    assert parity.packed_layers >= 3 * len(clip.tower(tower).blocks)
    assert parity.float_layers == {}


def test_files_for_processors_without_vnni_multiply_by_convolutions(export_for: Callable[..., Path]) -> None:
    kinds = {}
    for without_vnni in (False, True):
        xml = export_for("openvino", without_vnni=without_vnni) / "openvino_model.xml"
        nodes = openvino.Core().read_model(xml).get_ordered_ops()
        kinds[without_vnni] = Counter(node.get_type_name() for node in nodes)
        assert xml.with_suffix(".bin").stat().st_size < (export_for("optimum") / "model.onnx").stat().st_size
    assert kinds[False]["Convolution"] == 0
    # What is left are projections, attention and logits.
    assert kinds[True]["MatMul"] == kinds[False]["MatMul"] - kinds[True]["Convolution"]
    assert kinds[True]["Convolution"] > kinds[True]["MatMul"]


def test_another_tower_is_refused(clip: QuantizedCLIP, tmp_path: Path) -> None:
    graph = port_graph(clip, FILES[1])
    path = tmp_path / "graph.onnx"
    path.write_bytes(graph.model("test").SerializeToString())
    convert(path, tmp_path / "other.xml", "")
    weight = graph.constants["image.norm_post/weight"]
    weight.raw_data = weight.raw_data[::-1]
    path.write_bytes(graph.model("test").SerializeToString())
    with pytest.raises(ArtifactError, match="OpenVINO computes the embedding of the image tower of other"):
        check_in_openvino(tmp_path / "other.xml", path, FILES[1], clip)
