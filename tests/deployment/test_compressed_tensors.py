"""What compressed-tensors reads of an artifact: the formats of its tensors, and weights of 2, 4 and 8 bits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import d4c
from d4c.quantization.formats.packing import pack
from d4c.quantization.formats.scheme import QuantArgs
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_weight import QuantizedLayer

pytest.importorskip("compressed_tensors")
from compressed_tensors.compressors import PackedQuantizationCompressor
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import fake_quantize


def formats(artifact: Path) -> Iterator[dict[str, Any]]:
    section = json.loads((artifact / "config.json").read_text())["quantization_config"]
    for entry in section["layers"].values():
        yield from entry["input_activations"]
        if "weights" in entry:
            yield entry["weights"]


def test_every_format_reads(artifact: Path) -> None:
    for data in formats(artifact):
        theirs, ours = QuantizationArgs.model_validate(data), QuantArgs.from_dict(data)
        assert (theirs.num_bits, theirs.symmetric, theirs.strategy) == (ours.num_bits, ours.symmetric, ours.strategy)
        assert not theirs.dynamic
    assert any("observer_kwargs" in data for data in formats(artifact))


def test_weights_read_as_they_lie_in_the_file(artifact: Path) -> None:
    """A matrix of 4 or 8 bits is in the format pack-quantized; only its shape is not stored beside it."""
    stored = load_file(artifact / "model.safetensors")
    widths = set()
    for name, layer in d4c.load_quantized(artifact).layers().items():
        if layer.weight.ndim == 2 and f"{name}.token_ids" not in stored:
            widths.add(layer.weight_args.num_bits)
            assert torch.equal(decompressed(stored, name, layer), layer.weight)
    assert widths == {4, 8}


def decompressed(stored: dict[str, torch.Tensor], name: str, layer: QuantizedLayer) -> torch.Tensor:
    rows, columns = layer.weight_shape
    weights = QuantizationArgs.model_validate(layer.weight_args.to_dict())
    state = {
        "weight_packed": stored[f"{name}.weight_packed"].view(torch.int32).view(rows, -1),
        "weight_scale": stored[f"{name}.weight_scale"][:, None],
        "weight_shape": torch.tensor([rows, columns]),
    }
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    weight: torch.Tensor = PackedQuantizationCompressor.decompress(state, scheme)["weight"]
    return weight


@pytest.mark.parametrize("bits", range(2, 9))
def test_widths_that_fill_a_byte_are_packed_alike(bits: int) -> None:
    codes = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (24, 64))
    ours, theirs = pack(codes, bits, True), pack_to_int32(codes.to(torch.int8), bits).flatten().view(torch.uint8)
    assert torch.equal(ours, theirs) == (bits in (2, 4, 8))


@pytest.mark.parametrize("bits", range(2, 9))
def test_activations_are_rounded_alike(bits: int) -> None:
    """Their codes are signed: both the codes and the zero point are less by half of the range."""
    quantizer = ActivationQuantizer(QuantArgs(bits, False, "tensor"))
    quantizer.set_range(torch.tensor(5 / quantizer.args.qmax), torch.tensor(float(quantizer.args.qmax // 3)))
    zero_point = (quantizer.zero_point - 2 ** (bits - 1)).to(torch.int8)
    x = 3 * torch.randn(50, 7)
    theirs = fake_quantize(x, quantizer.scale, zero_point, QuantizationArgs.model_validate(quantizer.args.to_dict()))
    assert torch.equal(theirs, quantizer(x))
