"""Processors without VNNI are told, and 8-bit weights on them."""

from __future__ import annotations

import platform
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import d4c
from d4c.models.clip import CLIP
from d4c.quantization.quantized import QuantizedCLIP
from d4c.quantization.quantized_layers import QuantizedConv2d, QuantizedLinear
from d4c.runtime import processor
from d4c.runtime.exported import read_export
from d4c.runtime.processor import CPUINFO, saturates
from d4c.runtime.runtime_clip import RuntimeCLIP

HASWELL = "processor : 0\nmodel name\t: old\nflags\t\t: fpu sse4_2 avx avx2 fma\nbugs\t\t: spectre\n\nprocessor : 1\n"
SERVER = HASWELL.replace("fma", "fma avx512f avx512_vnni")
LAPTOP = HASWELL.replace("fma", "fma avx_vnni")


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What the system says of the processor; a test writes it."""
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    return tmp_path / "cpuinfo"


@pytest.mark.parametrize(
    ("text", "expected"),
    [(HASWELL, True), (SERVER, False), (LAPTOP, False), ("", False)],
    ids=["AVX2", "AVX512 VNNI", "AVX VNNI", "unknown"],
)
def test_vnni_is_read_from_the_flags(text: str, expected: bool, cpu: Path) -> None:
    cpu.write_text(text)
    assert saturates() is expected


def test_unknown_and_other_processors_are_taken_for_exact(cpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not saturates()
    cpu.write_text(HASWELL)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert not saturates()


OLD, HASWELL_PC, SKYLAKE_X = (False, False, False), (True, False, False), (True, True, False)
ICE_LAKE = (True, True, True)


@pytest.mark.parametrize(
    ("system", "features", "expected"),
    [
        ("Windows", OLD, True),
        ("Windows", HASWELL_PC, False),  # looks like Alder Lake, which has VNNI of another kind
        ("Windows", SKYLAKE_X, True),
        ("Windows", ICE_LAKE, False),
        ("Darwin", HASWELL_PC, True),
        ("Darwin", ICE_LAKE, False),
    ],
)
def test_elsewhere_numpy_tells_where_it_can(
    system: str, features: tuple[bool, ...], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = SimpleNamespace(__cpu_features__=dict(zip(("AVX2", "AVX512F", "AVX512VNNI"), features, strict=True)))
    monkeypatch.setattr(platform, "machine", lambda: "AMD64")
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(processor, "import_module", lambda _name: found)
    assert saturates() is expected


@pytest.mark.skipif(not CPUINFO.exists() or platform.machine() != "x86_64", reason="needs Linux on x86")
def test_numpy_and_linux_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = set(CPUINFO.read_text().split())
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    assert saturates() == (("avx512f" in flags or "avx2" not in flags) and "avx512_vnni" not in flags)


@pytest.fixture(scope="module")
def whole_range(demo_vit: CLIP, tmp_path_factory: pytest.TempPathFactory) -> tuple[QuantizedCLIP, Path]:
    """An artifact whose first and last layers have 8-bit weights of the whole range, and its export."""
    folder = tmp_path_factory.mktemp("whole-range") / "artifact"
    images = d4c.synthesize(demo_vit, "noise", images=4)
    clip = d4c.quantize(demo_vit, images, "W4A8", reconstruction="none", full_range=True, prompts=["a cat", "tree"])
    clip.save_pretrained(folder)
    return clip, d4c.export(folder, check=False).folder


def test_other_layers_fit_into_16_bits(whole_range: tuple[QuantizedCLIP, Path]) -> None:
    """The largest sum of two neighbors along the inputs, all activations as large as they get."""
    clip, folder = whole_range
    unsafe = set(read_export(folder).saturating)
    for name, layer in clip.layers().items():
        if isinstance(layer, QuantizedLinear | QuantizedConv2d) and name not in unsafe:
            sizes = layer.codes.flatten(1).abs().int()
            pairs = sizes[:, 0:-1:2] + sizes[:, 1::2]
            assert int(pairs.max()) * layer.input_quantizer.args.qmax < 2**15


@pytest.mark.parametrize(
    ("runtime", "outcome"), [("onnxruntime", "exact but slower"), ("openvino", "may compute wrong values")]
)
def test_8_bit_weights_without_vnni_are_warned_of(
    runtime: str, outcome: str, whole_range: tuple[QuantizedCLIP, Path], cpu: Path
) -> None:
    cpu.write_text(HASWELL)
    with pytest.warns(RuntimeWarning, match=rf"no VNNI.*image\.patch_embed and 2 more in .*{outcome}"):
        RuntimeCLIP(whole_range[1], runtime)


def test_there_is_no_warning_without_need(exported: Path, whole_range: tuple[QuantizedCLIP, Path], cpu: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cpu.write_text(SERVER)
        RuntimeCLIP(whole_range[1])
        cpu.write_text(HASWELL)
        RuntimeCLIP(exported)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_wider_sums_are_those_of_pytorch(whole_range: tuple[QuantizedCLIP, Path], cpu: Path) -> None:
    """On every processor, also on one that would cut off the others."""
    cpu.write_text(HASWELL)
    clip, folder = whole_range
    pixels = np.random.default_rng(0).standard_normal((4, 3, 64, 64), np.float32)
    found, expected = RuntimeCLIP(folder).encode_image(pixels), clip.encode_image(torch.from_numpy(pixels)).numpy()
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.998
