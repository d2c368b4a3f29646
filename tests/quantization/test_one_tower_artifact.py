"""One tower alone is examined, quantized, saved and read back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import d4c
from d4c.errors import DataError, SettingError
from d4c.models.clip import CLIP
from d4c.quantization.doctor.examine import examine

PROMPTS = ["a cat", "a dog on a hill", "two boats", "night"] * 10


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("track", ["deployable", "paper"])
def test_an_image_tower_alone_survives_quantization_and_its_artifact(
    lone_image: CLIP, tmp_path: Path, track: str
) -> None:
    images = d4c.synthesize(lone_image, "leaves", images=8)
    quantized = d4c.quantize(lone_image, images, "W8A8", track=track, reconstruction="none", progress=None)
    quantized.save_pretrained(tmp_path / "artifact")
    again = d4c.load_quantized(tmp_path / "artifact")
    assert again.recipe["towers"] == ["image"]
    assert not (tmp_path / "artifact" / "tokenizer.json").exists()
    expected = lone_image.image.outputs(images.pixels)
    for name, output in again.image.outputs(images.pixels).items():
        assert torch.equal(output, quantized.image.outputs(images.pixels)[name])
        assert 0 < error(output, expected[name]) < 0.1


@pytest.mark.parametrize("track", ["deployable", "paper"])
def test_a_text_tower_alone_needs_no_images_and_keeps_every_row(lone_text: CLIP, tmp_path: Path, track: str) -> None:
    quantized = d4c.quantize(
        lone_text, None, "W8A8", prompts=PROMPTS, track=track, reconstruction="none", progress=None
    )
    quantized.save_pretrained(tmp_path / "artifact")
    again = d4c.load_quantized(tmp_path / "artifact")
    assert again.recipe["towers"] == ["text"]
    assert not (tmp_path / "artifact" / "preprocessor_config.json").exists()
    tokens = lone_text.tokenize(PROMPTS[:4])
    assert torch.equal(tokens, again.tokenize(PROMPTS[:4]))
    expected = lone_text.text.outputs(tokens)
    for name, output in again.text.outputs(tokens).items():
        assert output.shape == expected[name].shape
        assert torch.equal(output, quantized.text.outputs(tokens)[name])
        assert 0 < error(output, expected[name]) < 0.1


def test_a_begin_that_became_constant_is_read_as_in_float(lone_text: CLIP) -> None:
    quantized = d4c.quantize(lone_text, None, "W4A4", prompts=PROMPTS, reconstruction="none", progress=None)
    tokens = lone_text.tokenize(PROMPTS[:4])
    assert quantized.text.begin_id == tokens[0, 0]
    expected, ours = lone_text.text.outputs(tokens), quantized.text.outputs(tokens)
    for name in ("penultimate", "last"):
        torch.testing.assert_close(ours[name][:, 0], expected[name][:, 0], rtol=1e-4, atol=1e-4)


def test_reconstruction_lessens_the_error_of_padded_rows(lone_text: CLIP) -> None:
    tokens = lone_text.tokenize(PROMPTS[:4])
    expected = lone_text.text.outputs(tokens)["penultimate"]
    errors = []
    for reconstruction in ("none", "gptq"):
        quantized = d4c.quantize(lone_text, None, "W4A8", prompts=PROMPTS, reconstruction=reconstruction, progress=None)
        errors.append(error(quantized.text.outputs(tokens)["penultimate"][:, -2:], expected[:, -2:]))
    assert errors[1] < errors[0]


def test_one_tower_alone_is_examined(lone_image: CLIP, lone_text: CLIP) -> None:
    for clip in (lone_image, lone_text):
        diagnosis = examine(clip, progress=None)
        assert [tower.name for tower in diagnosis.towers] == list(clip.towers)


def test_what_takes_the_other_tower_is_refused(lone_image: CLIP, lone_text: CLIP) -> None:
    images = d4c.synthesize(lone_image, "leaves", images=2)
    with pytest.raises(SettingError, match="Quantizing the text tower takes the text tower, and 'lone' is the image"):
        d4c.quantize(lone_image, images, towers=["text"], progress=None)
    with pytest.raises(SettingError, match="A target of bits or bytes takes both towers"):
        d4c.quantize(lone_image, images, target_bits=5.0, progress=None)
    with pytest.raises(DataError, match="There are no calibration images"):
        d4c.quantize(lone_image, None, progress=None)
