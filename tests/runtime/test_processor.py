"""Processors without VNNI are told, and 8-bit weights on them."""

from __future__ import annotations

import json
import platform
import warnings
from pathlib import Path

import numpy as np
import pytest

from d4c.quantization.layers import QuantizedConv2d, QuantizedLinear
from d4c.quantization.quantized import QuantizedCLIP
from d4c.runtime import processor
from d4c.runtime.clip import RuntimeCLIP
from d4c.runtime.folder import read_export
from d4c.runtime.processor import saturates

HASWELL = "processor : 0\nmodel name\t: old\nflags\t\t: fpu sse4_2 avx avx2 fma\nbugs\t\t: spectre\n\nprocessor : 1\n"
SERVER = HASWELL.replace("fma", "fma avx512f avx512_vnni")
LAPTOP = HASWELL.replace("fma", "fma avx_vnni")


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What the system says of the processor; a test writes it."""
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    return tmp_path / "cpuinfo"


@pytest.mark.parametrize(
    ("text", "expected"),
    [(HASWELL, True), (SERVER, False), (LAPTOP, False), ("", False)],
    ids=["AVX2", "AVX512 VNNI", "AVX VNNI", "unknown"],
)
def test_vnni_is_read_from_the_flags(text: str, expected: bool, cpu: Path) -> None:
    cpu.write_text(text)
    assert saturates() is expected


def test_other_systems_and_processors_are_taken_for_exact(cpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not saturates()
    cpu.write_text(HASWELL)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert not saturates()


def test_other_layers_fit_into_16_bits(exported: Path, quantized: QuantizedCLIP) -> None:
    """The largest sum of two neighbours along the inputs, all activations as large as they get."""
    unsafe = set(read_export(exported).saturating)
    for name, layer in quantized.layers().items():
        if isinstance(layer, QuantizedLinear | QuantizedConv2d) and name not in unsafe:
            sizes = layer.codes.flatten(1).abs().int()
            pairs = sizes[:, 0:-1:2] + sizes[:, 1::2]
            assert int(pairs.max()) * layer.input_quantizer.args.qmax < 2**15


@pytest.mark.parametrize(
    ("runtime", "outcome"), [("onnxruntime", "exact but slower"), ("openvino", "may compute wrong values")]
)
def test_8_bit_weights_without_vnni_are_warned_of(runtime: str, outcome: str, exported: Path, cpu: Path) -> None:
    cpu.write_text(HASWELL)
    with pytest.warns(RuntimeWarning, match=rf"no VNNI.*image\.patch_embed and 2 more in .*{outcome}"):
        RuntimeCLIP(exported, runtime)


def test_there_is_no_warning_without_need(exported: Path, copy: Path, cpu: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cpu.write_text(SERVER)
        RuntimeCLIP(exported)
        cpu.write_text(HASWELL)
        description = json.loads((copy / "export.json").read_text())
        (copy / "export.json").write_text(json.dumps({**description, "saturating": []}))
        RuntimeCLIP(copy)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_wider_sums_are_the_same_sums(exported: Path, model: RuntimeCLIP, cpu: Path) -> None:
    """Where the processor of the test is exact by itself; where it is not, this holds because both take the option."""
    cpu.write_text(HASWELL)
    pixels = np.random.default_rng(0).standard_normal((4, 3, 64, 64), np.float32)
    wide = RuntimeCLIP(exported)
    assert np.allclose(wide.encode_image(pixels), model.encode_image(pixels), atol=1e-5)
