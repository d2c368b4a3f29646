"""Artifacts, exports and runtimes that the tests of deployment share."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import pytest
from numpy.typing import NDArray

import d4c
from d4c.deployment.export import Export
from d4c.models.clip import CLIP
from d4c.models.tower import Tower
from d4c.quantization.layers.quantized_activations import QuantizedMatMul
from d4c.quantization.layers.quantized_product import QuantizedConv2d, QuantizedLinear
from d4c.quantization.quantized import QuantizedCLIP
from d4c.runtime.openvino_convolutions import use_convolutions

PROMPTS = ["a photo of a cat.", "tree", "two dogs in the snow"]
MIXED = {"{image,text}.blocks.0.*": "W8A8", "{image,text}.blocks.1.*": "W6A6"}
CASES = {
    "vit-W8A8": ("demo-vit", "W8A8", {}),
    "vit-mixed": ("demo-vit", "W4A4", MIXED),
    "rn-W6A6": ("demo-rn", "W6A6", {}),
}

Run = Callable[[bytes, dict[str, NDArray[Any]]], NDArray[Any]]


def quantized(clip: CLIP, scheme: str, **settings: Any) -> QuantizedCLIP:
    """A deployable model with calibrated ranges only."""
    calibration = d4c.synthesize(clip, "noise", images=4)
    return d4c.quantize(clip, calibration, scheme, reconstruction="none", prompts=PROMPTS, **settings)


@pytest.fixture(scope="session")
def quantize() -> Callable[..., QuantizedCLIP]:
    return quantized


def count_products(tower: Tower) -> int:
    kinds = QuantizedLinear | QuantizedConv2d | QuantizedMatMul
    layers = {name: module for name, module in tower.named_modules() if isinstance(module, kinds)}
    with_token = [
        name
        for name, layer in layers.items()
        if isinstance(layer, QuantizedLinear) and layer.input_quantizer.class_token is not None
    ]
    # Behind its attention, the last block has no other row.
    one_row = re.compile(rf"blocks\.{len(tower.blocks) - 1}\.(attn\.(q|out)|mlp\.fc.)") if with_token else None
    return len(layers) + sum(one_row is not None and not one_row.fullmatch(name) for name in with_token)


@pytest.fixture(scope="session")
def integer_products() -> Callable[[Tower], int]:
    """How many products of integers a quantized tower takes; a class token with a range of its own has its own."""
    return count_products


@pytest.fixture(scope="session", params=list(CASES))
def exported(
    request: pytest.FixtureRequest, shorten: Callable[[CLIP, int], CLIP], tmp_path_factory: pytest.TempPathFactory
) -> tuple[QuantizedCLIP, Export]:
    """Some blocks of each embedded model in schemes of all widths: the artifact as it is read back, and its export."""
    model, scheme, overrides = CASES[request.param]
    folder = tmp_path_factory.mktemp("export") / "artifact"
    quantized(shorten(d4c.load(model), 3), scheme, overrides=overrides).save_pretrained(folder)
    return d4c.load_quantized(folder), d4c.export(folder)


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded vision transformer at W4A8, saved."""
    folder = tmp_path_factory.mktemp("deployment") / "artifact"
    quantized(d4c.load("demo-vit"), "W4A8").save_pretrained(folder)
    return folder


def onnx_runtime(model: bytes, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def open_vino(model: bytes, feeds: dict[str, NDArray[Any]], convolutions: bool = False) -> NDArray[Any]:
    core = openvino.Core()
    graph = core.read_model(model)
    if convolutions:
        use_convolutions(graph)
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled(feeds)[0])


RUNTIMES = {"onnxruntime": onnx_runtime, "openvino": open_vino, "convolutions": partial(open_vino, convolutions=True)}


@pytest.fixture(params=RUNTIMES.values(), ids=list(RUNTIMES))
def runtime(request: pytest.FixtureRequest) -> Run:
    """Each runtime as a function of a model and its inputs."""
    return request.param
