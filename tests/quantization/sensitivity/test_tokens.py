"""Tokens that carry the error of a layer's inputs: they are all of it, and each kind is measured alone."""

from __future__ import annotations

import pytest
import torch

import d4c
from d4c.calibration.images import CalibrationSet
from d4c.errors import SettingError
from d4c.models.clip import CLIP
from d4c.quantization.sensitivity import tokens as tokens_module
from d4c.quantization.sensitivity.tokens import RoundedRows, TokenSensitivity, measure_tokens

PROMPTS = ["a photo of a cat.", "tree", "two dogs in the snow", "the moon over the sea"]


@pytest.fixture(scope="module")
def clip(two_blocks: None) -> CLIP:
    return d4c.load("demo-vit")


@pytest.fixture(scope="module")
def calibration(clip: CLIP) -> CalibrationSet:
    return d4c.synthesize(clip, "leaves", images=4, progress=None)


def measured(clip: CLIP, calibration: CalibrationSet, layer: str) -> TokenSensitivity:
    return measure_tokens(clip, calibration, layer, "W4A4", prompts=PROMPTS, progress=None)


def test_the_kinds_of_an_image_are_all_of_its_tokens(
    clip: CLIP, calibration: CalibrationSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens_module, "LOUD_ROW", 1.3)  # the models of the tests are quiet
    costs = measured(clip, calibration, "image.blocks.1.mlp.fc2")
    by_kind = {cost.token: cost for cost in costs.tokens}
    assert by_kind.keys() == {"class token", "loud patch", "patch"}
    assert by_kind["class token"].per_sample == 1
    assert by_kind["loud patch"].per_sample + by_kind["patch"].per_sample == 64
    assert sum(cost.error for cost in costs.tokens) == pytest.approx(1)
    # Behind the last block only the class token is read.
    assert by_kind["class token"].alone == pytest.approx(costs.divergence, rel=1e-5)
    assert by_kind["patch"].alone == pytest.approx(0, abs=1e-9)


def test_begin_of_text_is_constant_and_what_comes_after_the_end_does_not_count(
    clip: CLIP, calibration: CalibrationSet
) -> None:
    costs = measured(clip, calibration, "text.blocks.0.mlp.fc1")
    by_kind = {cost.token: cost for cost in costs.tokens}
    assert costs.constant
    assert by_kind.keys() == {"word", "end of text"}
    lengths = [int(row.argmax()) for row in clip.tokenize(PROMPTS)]
    assert by_kind["word"].per_sample == sum(lengths) / len(lengths) - 1
    assert all(0 < cost.alone < 1 and 0 < cost.error < 1 for cost in costs.tokens)


def test_only_the_rows_that_are_named_are_rounded() -> None:
    x, rows = torch.randn(2, 3, 4), torch.tensor([[True, False, False], [False, False, True]])
    layer = RoundedRows(torch.nn.Identity(), torch.round, rows)  # type: ignore[arg-type]
    out = layer(x)
    assert torch.equal(out[rows], x[rows].round())
    assert torch.equal(out[~rows], x[~rows])
    torch.testing.assert_close(layer.errors, (x.round() - x).square().sum(-1))


@pytest.mark.parametrize(
    ("layer", "sentence"),
    [
        ("image.blocks.9.mlp.fc1", r"is not a linear layer of 'demo-vit', expected one such as '\w+\.blocks\."),
        ("image.patch_embed", "is not a linear layer"),
        ("image.projection", "is not in a transformer block"),
    ],
)
def test_layers_without_tokens_are_refused(clip: CLIP, calibration: CalibrationSet, layer: str, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        measured(clip, calibration, layer)


@pytest.mark.parametrize(("layer", "bits"), [("image.blocks.1.mlp.fc2", 8), ("text.blocks.1.mlp.fc2", None)])
def test_the_bits_of_a_class_token_with_a_range_of_its_own_are_told(
    clip: CLIP, calibration: CalibrationSet, layer: str, bits: int | None
) -> None:
    assert measured(clip, calibration, layer).class_token_bits == bits
