"""A text tower whose begin-of-text carries two spikes, as those of real models do, and quantizers on it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from d4c.calibration.prompts import generic_prompts
from d4c.models.clip import CLIP
from d4c.quantization.layers.quantized_product import QuantizedLinear


@pytest.fixture(scope="module")
def spikes() -> ModuleType:
    reason = "a source distribution has no benchmarks"
    module: ModuleType = pytest.importorskip("benchmarks.text_tower.spiked", reason=reason)
    return module


@pytest.fixture(scope="module")
def placements() -> ModuleType:
    reason = "a source distribution has no benchmarks"
    module: ModuleType = pytest.importorskip("benchmarks.text_tower.placements", reason=reason)
    return module


@pytest.fixture(scope="module")
def spiked(spikes: ModuleType, demo_vit: CLIP) -> CLIP:
    """The embedded vision transformer with spikes in its text tower; tests must not change it."""
    clip: CLIP = spikes.spiked(demo_vit, seed=0)
    return clip


def tokens_of(clip: CLIP) -> Tensor:
    return clip.tokenize(generic_prompts(128, seed=1))


@pytest.fixture(scope="module")
def quantized(placements: ModuleType) -> Callable[[CLIP, str], CLIP]:
    """A model with its text tower in a placement; tests must not change it."""
    return cache(lambda clip, placement: placements.quantize_text_at(clip, placement, "W8A8", generic_prompts(128)))


@torch.no_grad()
def error(quantized: CLIP, clip: CLIP) -> float:
    """One minus the mean cosine between embeddings."""
    tokens = tokens_of(clip)
    return 1 - float(F.cosine_similarity(quantized.encode_text(tokens), clip.encode_text(tokens)).mean())


@torch.no_grad()
def test_begin_of_text_has_the_measured_spikes(spikes: ModuleType, spiked: CLIP) -> None:
    text = copy.deepcopy(spiked.text)
    text.trim = False
    tokens = tokens_of(spiked)
    (rows,) = spikes.outputs_of(text, tokens, [text.norm_final], first=0)
    begin, far = rows[0], rows.view(*tokens.shape, -1)[:, spikes.FAR :]
    pair = begin[spikes.CHANNELS]
    assert pair.tolist() == pytest.approx([33, -28], rel=0.03)
    assert float(pair.square().sum() / begin.square().sum()) == pytest.approx(0.98, abs=0.005)
    # Of positions far after end-of-text some reach 22.5 and -18 in the real tower; here some go up to 34 and -30.
    assert 18 < float(far[..., spikes.CHANNELS].abs().amax()) < 36
    (ordinary,) = spikes.outputs_of(spiked.text, tokens, [spiked.text.norm_final])
    assert float(ordinary.std(0).median()) == pytest.approx(0.78, abs=0.05)


@torch.no_grad()
def test_embeddings_are_nearly_those_of_the_plain_model(spiked: CLIP, demo_vit: CLIP) -> None:
    tokens = tokens_of(demo_vit)
    cosines = F.cosine_similarity(spiked.encode_text(tokens), demo_vit.encode_text(tokens))
    assert float(cosines.mean()) > 0.99


def test_spikes_cost_one_scale_per_tensor_but_not_ours(
    quantized: Callable[[CLIP, str], CLIP], spiked: CLIP, demo_vit: CLIP
) -> None:
    """Prompts of seed 0: errors grow 46 times per tensor and 18 times as RepQ-ViT does it, ours by a sixth."""
    errors = {
        (placement, name): error(quantized(clip, placement), clip)
        for placement in ("per tensor, min-max", "RepQ-ViT, min-max", "ours")
        for name, clip in (("plain", demo_vit), ("spiked", spiked))
    }
    assert errors["per tensor, min-max", "spiked"] > 10 * errors["per tensor, min-max", "plain"]
    assert errors["RepQ-ViT, min-max", "spiked"] > 5 * errors["RepQ-ViT, min-max", "plain"]
    assert errors["ours", "spiked"] < 2 * errors["ours", "plain"]


def test_our_ranges_leave_out_begin_of_text(quantized: Callable[[CLIP, str], CLIP], spiked: CLIP) -> None:
    def width(placement: str) -> float:
        """Width of the input of the second MLP layer of the first block, where a neuron fires for begin-of-text."""
        layer = quantized(spiked, placement).get_submodule("text.blocks.0.mlp.fc2")
        assert isinstance(layer, QuantizedLinear)
        return float(layer.input_quantizer.scale * layer.input_quantizer.args.qmax)

    assert width("per tensor, min-max") > 60
    assert width("ours") < 10


def test_spikes_after_end_of_text_change_nothing_of_ours(
    spikes: ModuleType, quantized: Callable[[CLIP, str], CLIP], spiked: CLIP
) -> None:
    without = copy.deepcopy(spiked)
    without.text.positional_embedding[spikes.FAR :] = 0
    for placement, equal in (("ours", True), ("D4C, min-max", False)):
        states = [quantized(clip, placement).text.state_dict() for clip in (spiked, without)]
        same = [torch.equal(value, states[1][key]) for key, value in states[0].items() if "positional" not in key]
        assert all(same) == equal
