"""Signal to noise of layers agrees with what is computed another way."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import d4c
from d4c.models.clip import CLIP
from d4c.quantization.layers.quantized_weight import QuantizedLayer
from d4c.report.gather import Layers, ReportData
from d4c.report.measures.float_form import FloatForm, float_form
from d4c.report.measures.layer_errors import EXACT, layer_errors
from d4c.report.subject import Subject


@pytest.fixture(scope="module")
def form(subject: Subject, small: CLIP) -> FloatForm:
    assert subject.images is not None
    return float_form(small, subject.model, subject.images)


def ratio(exact: Tensor, rounded: Tensor) -> float:
    return 10 * math.log10(float(exact.double().square().sum() / (rounded - exact).double().square().sum()))


def test_the_form_computes_what_the_checkpoint_does(form: FloatForm, small: CLIP) -> None:
    assert form.towers == ("image", "text")
    for tower in form.towers:
        expected = small.tower(tower)(form.samples[tower])
        assert torch.allclose(form.clip.tower(tower)(form.samples[tower]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_all_layers_up_to_the_last_give_the_error_of_the_embedding(
    tower: str, form: FloatForm, subject: Subject
) -> None:
    samples = {tower: form.samples[tower][:20]}
    errors = layer_errors(form.clip, subject.model, samples, {})
    with torch.no_grad():
        exact, rounded = (clip.tower(tower)(samples[tower]) for clip in (form.clip, subject.model))
    assert errors[-1].name == f"{tower}.projection"
    assert errors[-1].upto == pytest.approx(ratio(exact, rounded), abs=0.01)


def test_the_first_layer_is_all_layers_up_to_it(report: ReportData) -> None:
    errors = layers(report).errors
    for tower in ("image", "text"):
        first = next(error for error in errors if error.tower == tower)
        assert first.alone == pytest.approx(first.upto, abs=1e-3)
        assert first.alone_on_others == pytest.approx(first.upto_on_others, abs=1e-3)


def test_weights_alone_are_less_noise_than_weights_and_inputs(report: ReportData) -> None:
    with_weights = [error for error in layers(report).errors if error.by_weights is not None]
    assert len(with_weights) > 10
    assert all(error.by_weights > error.alone - 0.5 for error in with_weights if error.by_weights)


def test_a_layer_with_its_float_weights_has_no_noise_of_weights(form: FloatForm, subject: Subject) -> None:
    exact = copy.deepcopy(subject.model)
    name = "image.blocks.1.mlp.fc1"
    layer = exact.get_submodule(name)
    assert isinstance(layer, QuantizedLayer)
    source = form.clip.get_submodule(name)
    assert isinstance(source, nn.Linear)
    layer.weight.copy_(source.weight)
    assert isinstance(layer.bias, Tensor)
    layer.bias.copy_(source.bias)
    errors = layer_errors(form.clip, exact, {"image": form.samples["image"]}, {})
    assert next(error.by_weights for error in errors if error.name == name) == EXACT


def test_other_images_give_another_form(subject: Subject, small: CLIP) -> None:
    others = d4c.synthesize(small, "noise", images=4, seed=3, progress=None)
    assert float_form(small, subject.model, others).towers == ("text",)


def layers(report: ReportData) -> Layers:
    (part,) = report.parts.values()
    assert isinstance(part.layers, Layers)
    return part.layers
