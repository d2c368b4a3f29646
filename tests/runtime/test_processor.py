"""Processors that add products in pairs are told from others, and so are files in full range on them."""

from __future__ import annotations

import base64
import json
import platform
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import d4c
from d4c.errors import SettingError
from d4c.models.clip import CLIP
from d4c.quantization.quantized import QuantizedCLIP
from d4c.runtime.processor import COLUMNS, OPSET, PRODUCT, VARIABLE, saturates
from d4c.runtime.runtime_clip import RuntimeCLIP

CPUINFO = Path("/proc/cpuinfo")
VNNI = {"avx512_vnni", "avx_vnni"}


@pytest.mark.skipif(not CPUINFO.exists() or platform.machine() != "x86_64", reason="needs Linux on x86")
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_small_product_tells_what_linux_says(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert saturates(runtime) == (not VNNI & set(CPUINFO.read_text().split()))


def test_the_environment_decides_where_it_says_something(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("1", True), ("0", False)):
        monkeypatch.setenv(VARIABLE, value)
        assert saturates("onnxruntime") is saturates("openvino") is expected
    monkeypatch.setenv(VARIABLE, "yes")
    with pytest.raises(SettingError, match=r"D4C_PAIR_SUMS is 'yes', expected 1 .* or 0 .*\.$"):
        saturates("onnxruntime")


def test_the_small_product_is_what_it_says() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["a"]),
        helper.make_node("DequantizeLinear", ["c", "s"], ["w"]),
        helper.make_node("MatMul", ["a", "w"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(*end) for end in (("x", 1, [1, 1, COLUMNS]), ("y", 1, [1, 1, 8]))]
    constants = {"s": np.float32(1), "z": np.uint8(0), "c": np.full((COLUMNS, 8), 127, np.int8)}
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "pairs", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    assert TensorProto.FLOAT == 1
    assert base64.b64decode(PRODUCT) == model.SerializeToString()


@pytest.fixture(scope="module")
def full_range(demo_vit: CLIP, tmp_path_factory: pytest.TempPathFactory) -> tuple[QuantizedCLIP, Path]:
    """An artifact whose first and last layers have 8-bit weights in full range, and its export."""
    folder = tmp_path_factory.mktemp("full-range") / "artifact"
    images = d4c.synthesize(demo_vit, "noise", images=4)
    clip = d4c.quantize(demo_vit, images, "W4A8", reconstruction="none", full_range=True, prompts=["a cat", "tree"])
    clip.save_pretrained(folder)
    return clip, d4c.export(folder, check=False).folder


def test_the_export_records_the_range(full_range: tuple[QuantizedCLIP, Path], exported: Path) -> None:
    described = [json.loads((folder / "export.json").read_text()) for folder in (full_range[1], exported)]
    assert [entry["full_range"] for entry in described] == [True, False]
    assert "image.patch_embed" in described[0]["saturating"]
    assert described[1]["saturating"] == []


def test_onnx_runtime_takes_wider_sums_and_says_so(
    full_range: tuple[QuantizedCLIP, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those of PyTorch on every processor, also on one that would cut off the others."""
    monkeypatch.setenv(VARIABLE, "1")
    clip, folder = full_range
    with pytest.warns(RuntimeWarning, match=r"full range \(image\.patch_embed and 2 more\).*exact but slower"):
        runtime = RuntimeCLIP(folder)
    pixels = np.random.default_rng(0).standard_normal((4, 3, 64, 64), np.float32)
    computed, expected = runtime.encode_image(pixels), clip.encode_image(torch.from_numpy(pixels)).numpy()
    cosines = (computed * expected).sum(1) / np.linalg.norm(computed, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.998


def test_openvino_refuses_what_it_would_compute_wrongly(
    full_range: tuple[QuantizedCLIP, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    with pytest.raises(SettingError, match=r"no VNNI .* OpenVINO .*use runtime='onnxruntime'.*--full-range\.$"):
        RuntimeCLIP(full_range[1], "openvino")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_nothing_is_said_without_need(
    runtime: str, exported: Path, full_range: tuple[QuantizedCLIP, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for pairs, folder in (("0", full_range[1]), ("1", exported)):
            monkeypatch.setenv(VARIABLE, pairs)
            RuntimeCLIP(folder, runtime)
