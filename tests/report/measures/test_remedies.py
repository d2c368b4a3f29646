"""Layers that stand out are named with the option that helps."""

from __future__ import annotations

from dataclasses import replace

from d4c.report.measures.layer_errors import LayerError
from d4c.report.measures.remedies import remedies

PLAIN = LayerError("image.blocks.0.mlp.fc1", "image", 4, 8, 100, (), 30.0, 30.5, 25.0, 30.0, 25.0)
EVEN = tuple(replace(PLAIN, name=f"image.blocks.{i}.mlp.fc1") for i in range(5))


def test_even_layers_need_nothing() -> None:
    assert remedies(EVEN) == ()


def test_noisy_weights_get_more_bits() -> None:
    (found,) = remedies((*EVEN, replace(PLAIN, name="image.worst", alone=12.0, by_weights=12.2, alone_on_others=12.0)))
    assert found.layer == "image.worst"
    assert "12.0 dB" in found.fact
    assert "30.0 dB" in found.fact
    assert found.command == "--override 'image.worst=W8A8'"


def test_noisy_inputs_get_more_bits() -> None:
    noisy = replace(PLAIN, name="image.worst", input_bits=4, alone=12.0, by_weights=30.0, alone_on_others=12.0)
    (found,) = remedies((*EVEN, noisy))
    assert found.command == "--override 'image.worst=W4A8'"


def test_a_layer_at_eight_bits_has_no_option() -> None:
    noisy = replace(PLAIN, name="image.worst", weight_bits=8, alone=12.0, by_weights=12.0, alone_on_others=12.0)
    (found,) = remedies((*EVEN, noisy))
    assert found.command == ""
    assert "already have 8 bits" in found.advice


def test_layers_that_fit_their_samples_are_one_finding_for_a_tower() -> None:
    fitted = [replace(each, alone_on_others=30.0 - 4 - i) for i, each in enumerate(EVEN)]
    text = replace(PLAIN, name="text.blocks.0.mlp.fc1", tower="text")
    (found,) = remedies((*fitted, text))
    assert found.layer == EVEN[4].name
    assert "5 of 5 layers of the image tower" in found.fact
    assert "--images" in found.advice
