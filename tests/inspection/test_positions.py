"""Peaks of activations by position, and how the begin-of-text position affects ranges."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from d4c.calibration.prompts import generic_prompts
from d4c.errors import DataError
from d4c.inspection.positions import PARTS, begin_of_text_ratios, position_peaks
from d4c.models.clip import CLIP

TEXTS = ["a cat", "a very small drawing of an old red bicycle", "two dogs in the snow"]


@pytest.fixture(scope="module")
def peaks(demo_vit: CLIP) -> dict[str, Tensor]:
    return position_peaks(demo_vit, demo_vit.tokenize(TEXTS))


def test_every_block_and_part_has_a_peak_at_each_position(demo_vit: CLIP, peaks: dict[str, Tensor]) -> None:
    assert len(peaks) == len(demo_vit.text.blocks) * (1 + len(PARTS))
    length = int(demo_vit.text.pooled_position(demo_vit.tokenize(TEXTS)).max()) + 1
    assert all(peak.shape == (length,) and bool((peak > 0).all()) for peak in peaks.values())


@torch.no_grad()
def test_the_state_after_a_block_has_the_measured_peaks(demo_vit: CLIP, peaks: dict[str, Tensor]) -> None:
    tokens = demo_vit.tokenize(TEXTS)
    state = demo_vit.text.blocks[0](demo_vit.text.embed(demo_vit.text.crop(tokens)), causal=True).abs().amax(2)
    ends = demo_vit.text.pooled_position(tokens).tolist()
    by_hand = [
        max(float(row[i]) for row, end in zip(state, ends, strict=True) if i <= end) for i in range(max(ends) + 1)
    ]
    assert torch.allclose(peaks["text.blocks.0"], torch.tensor(by_hand))


def test_batches_make_no_difference(demo_vit: CLIP) -> None:
    tokens = demo_vit.tokenize(generic_prompts(70))
    whole = position_peaks(demo_vit, tokens)
    parts = [position_peaks(demo_vit, part) for part in tokens.split(20)]
    for name, peak in whole.items():
        joined = torch.zeros_like(peak)
        for part in parts:
            joined[: len(part[name])] = torch.maximum(joined[: len(part[name])], part[name])
        assert torch.allclose(joined, peak, rtol=1e-4)


def test_what_follows_end_of_text_does_not_count(demo_vit: CLIP, peaks: dict[str, Tensor]) -> None:
    tokens = demo_vit.tokenize(TEXTS)
    for row, end in zip(tokens, demo_vit.text.pooled_position(tokens).tolist(), strict=True):
        row[end + 1 :] = torch.randint(1, 40_000, (len(row) - end - 1,))
    cropped = position_peaks(demo_vit, tokens)
    assert all(torch.allclose(cropped[name], peak) for name, peak in peaks.items())


def test_the_first_position_does_not_depend_on_the_prompt(demo_vit: CLIP, peaks: dict[str, Tensor]) -> None:
    other = position_peaks(demo_vit, demo_vit.tokenize(["the moon over the sea"]))
    assert all(torch.allclose(other[name][0], peak[0], rtol=1e-4) for name, peak in peaks.items())


def test_in_the_embedded_models_begin_of_text_sets_no_range(demo: CLIP) -> None:
    """Its keys in the first block are the only values that are at times the largest, by 2 % in the ResNet's model."""
    ratios = begin_of_text_ratios(position_peaks(demo, demo.tokenize(generic_prompts(64))))
    assert max(ratios.values()) < 1.2


def test_a_begin_of_text_that_dominates_is_measured(demo_vit: CLIP) -> None:
    planted = copy.deepcopy(demo_vit)
    planted.text.positional_embedding[0, 3] += 500
    ratios = begin_of_text_ratios(position_peaks(planted, planted.tokenize(TEXTS)))
    assert all(ratios[f"text.blocks.{i}"] > 10 for i in range(3))


def test_no_prompt_is_refused(demo_vit: CLIP) -> None:
    with pytest.raises(DataError, match="There is no prompt"):
        position_peaks(demo_vit, demo_vit.tokenize(["x"])[:0])
