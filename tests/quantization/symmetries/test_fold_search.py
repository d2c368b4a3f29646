"""A fold is as strong as what was measured says, and changes no output."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import d4c
from d4c.models.clip import CLIP, TOWERS
from d4c.quantization.calibrate import prepare, run_towers
from d4c.quantization.formats.scheme import QuantArgs, Scheme
from d4c.quantization.placement import LayerPlan, Plan, default_overrides, make_plan
from d4c.quantization.quantized_layers import ActivationQuantizer, QuantizedLinear
from d4c.quantization.ranges.observer import Observer
from d4c.quantization.symmetries.fold_search import FoldSite, find_sites
from d4c.quantization.symmetries.folding import fold_channel_ranges


def plan_of(clip: CLIP, scheme: str) -> Plan:
    return make_plan(clip, Scheme.parse(scheme), "deployable", default_overrides(clip, "deployable"))


def formats(scheme: str) -> LayerPlan:
    bits = Scheme.parse(scheme)
    inputs = QuantArgs(bits.activation_bits, False, "tensor")
    return LayerPlan(QuantArgs(bits.weight_bits, True, "channel"), (inputs,))


@pytest.fixture(scope="module")
def pixels(demo_vit: CLIP) -> Tensor:
    return d4c.synthesize(demo_vit, "leaves", images=4).pixels


@torch.no_grad()
@pytest.mark.parametrize("scheme", ["W8A8", "W2A4"])
def test_both_towers_are_the_same_when_prepared(demo: CLIP, prompts: list[str], pixels: Tensor, scheme: str) -> None:
    clip, tokens = copy.deepcopy(demo), demo.tokenize(prompts)
    prepare(clip, pixels, tokens, TOWERS, plan_of(clip, scheme))
    for after, before in (
        (clip.encode_image(pixels), demo.encode_image(pixels)),
        (clip.encode_text(tokens), demo.encode_text(tokens)),
    ):
        assert float((after - before).norm() / before.norm()) < 1e-5
    assert any(not torch.equal(*pair) for pair in zip(clip.text.parameters(), demo.text.parameters(), strict=True))


@torch.no_grad()
@pytest.mark.parametrize("scheme", ["W4A8", "W4A4"])
def test_every_norm_of_a_tower_has_the_least_error_of_all_strengths(
    demo: CLIP, prompts: list[str], scheme: str
) -> None:
    clip = copy.deepcopy(demo)
    sites = list(find_sites(clip, ["text"], plan_of(clip, scheme)))
    run_towers(clip, torch.empty(0), demo.tokenize(prompts), ["text"])
    assert len(sites) == 2 * len(clip.text.blocks)
    for site in sites:
        errors = [site.error(site.layers)]
        for strength in site.strengths:
            norm, *readers = folded = copy.deepcopy(site.layers)
            fold_channel_ranges(norm, readers, site.low, site.high, strength)  # type: ignore[arg-type]
            errors.append(site.error(folded))
        site.choose()
        assert site.error(site.layers) == pytest.approx(min(errors), rel=1e-4)
        assert min(errors) < errors[0]


@torch.no_grad()
def test_channels_of_different_width_are_folded_fully_for_the_inputs_and_not_for_the_weights() -> None:
    """What bits are scarce decides; a float of one side stands for many bits."""
    spreads = {}
    for scheme in ("W8A3", "W3A8"):
        torch.manual_seed(0)
        norm, reader = nn.LayerNorm(64), nn.Linear(64, 48)
        norm.weight.copy_(torch.logspace(-0.5, 0.5, 64))
        before = norm.weight.clone()
        site = FoldSite(norm, [reader], [formats(scheme)])
        norm(torch.randn(8, 60, 64))
        site.choose()
        spreads[scheme] = float((norm.weight.log() - norm.weight.log().mean()).std() / before.log().std())
    assert spreads["W8A3"] < 0.2
    assert spreads["W3A8"] > 0.6


@torch.no_grad()
def test_a_fold_that_helps_nothing_is_left_out() -> None:
    """Channels that are alike gain nothing: the norm stays as it was, bit for bit."""
    norm, reader = nn.LayerNorm(16), nn.Linear(16, 16)
    x = torch.randn(4, 8, 16)
    x = torch.cat([x.roll(shift, -1) for shift in range(16)] + [-x.roll(shift, -1) for shift in range(16)])
    reader.weight.copy_(torch.eye(16))
    site = FoldSite(norm, [reader], [formats("W4A4")])
    norm(x)
    before = copy.deepcopy(site.layers.state_dict())
    site.choose()
    assert all(torch.equal(value, before[name]) for name, value in site.layers.state_dict().items())


@torch.no_grad()
def test_a_site_sees_the_range_of_all_batches_and_keeps_the_largest() -> None:
    norm = nn.LayerNorm(3)
    site = FoldSite(norm, [nn.Linear(3, 2)], [formats("W4A4")])
    batches = [torch.randn(n, 5, 3) for n in (2, 4, 3)]
    outputs = torch.cat([norm(x).flatten(0, 1) for x in batches])
    assert torch.equal(site.low, outputs.amin(0))
    assert torch.equal(site.high, outputs.amax(0))
    assert torch.equal(site.sample, batches[1])


@torch.no_grad()
def test_the_error_of_a_site_is_that_of_its_quantized_layers() -> None:
    """Few values and few outputs, so that nothing is left out of the measurement."""
    norm, readers = nn.LayerNorm(12), [nn.Linear(12, 4) for _ in range(3)]
    norm.weight.uniform_(0.2, 3)
    site = FoldSite(norm, readers, [formats("W3A4")] * 3)
    x = torch.randn(2, 5, 12)
    y = norm(x)
    relative_errors = 0.0
    for reader in readers:
        plan = formats("W3A4")
        assert plan.weights is not None
        layer = QuantizedLinear(reader, plan.weights, ActivationQuantizer(plan.inputs[0]))
        layer.calibrate_weight()
        observer = Observer(plan.inputs[0], "input")
        observer.add(y)
        layer.input_quantizer.set_range(*observer.finish())
        expected = reader(y)
        spread = expected - expected.mean((0, 1))
        relative_errors += float((layer(y) - expected).square().sum() / spread.square().sum())
    assert site.error(site.layers) == pytest.approx(relative_errors / 3, rel=1e-4)
