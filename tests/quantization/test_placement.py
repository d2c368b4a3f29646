"""What each track quantizes, by name."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn

from d4c.errors import SettingError
from d4c.models.clip import CLIP
from d4c.models.layers import Attention, Block, MatMul
from d4c.models.resnet import AttentionPool
from d4c.models.vit import VisionTransformer
from d4c.quantization.layers import QuantizedLayer, QuantizedMatMul
from d4c.quantization.placement import LayerPlan, Plan, convert, default_overrides, make_plan
from d4c.quantization.scheme import QuantArgs, Scheme, Track

W3A5 = Scheme(3, 5)
KINDS = nn.Linear | nn.Conv2d | nn.Embedding | MatMul


def plan_of(clip: CLIP, track: Track, overrides: dict[str, Scheme] | None = None) -> Plan:
    return make_plan(clip, W3A5, track, default_overrides(track) if overrides is None else overrides)


def candidates(clip: CLIP) -> set[str]:
    return {name for name, module in clip.named_modules() if isinstance(module, KINDS)}


def bits(entry: LayerPlan) -> tuple[int, ...]:
    weights = () if entry.weights is None else (entry.weights.num_bits,)
    return (*weights, *(args.num_bits for args in entry.inputs))


def test_deployable_quantizes_every_product(demo: CLIP) -> None:
    assert set(plan_of(demo, "deployable")) == candidates(demo)


def test_paper_leaves_exactly_the_published_list_in_float(demo: CLIP) -> None:
    """Patch or stem convolutions, shortcuts, token table and both final projections."""
    left = candidates(demo) - set(plan_of(demo, "paper"))
    expected = {"text.token_embedding", "text.projection"}
    if isinstance(demo.image, VisionTransformer):
        expected |= {"image.patch_embed", "image.projection"}
    else:
        expected |= {f"image.stem.conv{i}" for i in (1, 2, 3)}
        # The first bottleneck of each of the four stages.
        expected |= {f"image.blocks.{i}.downsample.conv" for i in (0, 2, 4, 7)}
    assert left == expected


def test_paper_holds_the_text_mlps_at_8_bits_and_nothing_else(demo: CLIP) -> None:
    plan = plan_of(demo, "paper")
    mlps = {name for name in plan if re.fullmatch(r"text\.blocks\.\d\.mlp\.fc[12]", name)}
    assert len(mlps) == 6
    assert all(bits(plan[name]) == (8, 8) for name in mlps)
    assert all(set(bits(plan[name])) <= {3, 5} for name in set(plan) - mlps)


def test_paper_has_a_scale_a_channel_exactly_where_published(demo: CLIP) -> None:
    """Inputs of q, k, v and of the first MLP layer, and of the second MLP layer of the text tower."""
    plan = plan_of(demo, "paper")
    found = {name for name, entry in plan.items() if any(args.strategy == "channel" for args in entry.inputs)}
    layers = {"image": sum(isinstance(b, Block) for b in demo.image.blocks), "text": len(demo.text.blocks)}
    readers = ("attn.q", "attn.k", "attn.v", "mlp.fc1")
    expected = {f"{tower}.blocks.{i}.{r}" for tower, count in layers.items() for i in range(count) for r in readers}
    assert found == expected | {f"text.blocks.{i}.mlp.fc2" for i in range(layers["text"])}


def test_weights_are_symmetric_on_the_deployable_track_alone(demo: CLIP) -> None:
    for track, symmetric in (("deployable", True), ("paper", False)):
        plan = plan_of(demo, track)  # type: ignore[arg-type]
        formats = {(e.weights.symmetric, e.weights.strategy) for e in plan.values() if e.weights is not None}
        assert formats == {(symmetric, "channel")}
        assert not any(args.symmetric for e in plan.values() for args in e.inputs)


def test_deployable_exceptions_are_the_ends_of_the_towers(demo: CLIP) -> None:
    plan = plan_of(demo, "deployable")
    eight = {name for name, entry in plan.items() if bits(entry) == (8, 8)}
    ends = {"image.patch_embed", "image.projection", "image.stem.conv1", "image.pool.out", "text.projection"}
    assert eight == ends & candidates(demo)
    assert bits(plan["text.token_embedding"]) == (8,)


def test_the_last_override_that_matches_wins(demo_vit: CLIP) -> None:
    first, second = Scheme(8, 8), Scheme(6, 7)
    overrides = {r"image\.blocks\..*": first, r"image\.blocks\.1\.mlp\.fc1": second}
    forwards = plan_of(demo_vit, "deployable", overrides)
    backwards = plan_of(demo_vit, "deployable", dict(reversed(overrides.items())))
    assert bits(forwards["image.blocks.1.mlp.fc1"]) == (6, 7)
    assert bits(backwards["image.blocks.1.mlp.fc1"]) == (8, 8)
    assert bits(forwards["image.blocks.1.attn.scores"]) == (8, 8)
    assert bits(forwards["text.blocks.1.mlp.fc1"]) == (3, 5)


@pytest.mark.parametrize("pattern", ["image.blocks.99.mlp.fc1", "fc1", "image.norm_post", "image.blocks.(0"])
def test_an_override_that_matches_no_layer_is_refused(demo_vit: CLIP, pattern: str) -> None:
    with pytest.raises(SettingError) as caught:
        plan_of(demo_vit, "deployable", {pattern: Scheme(8, 8)})
    assert repr(pattern) in str(caught.value)


def test_a_plan_of_one_tower_leaves_the_other(demo: CLIP) -> None:
    one = make_plan(demo, W3A5, "deployable", {}, ("text",))
    assert set(one) == {name for name in candidates(demo) if name.startswith("text.")}


@pytest.mark.parametrize("track", ["deployable", "paper"])
def test_converting_replaces_what_the_plan_names(demo: CLIP, track: Track) -> None:
    converted, plan = copy.deepcopy(demo), plan_of(demo, track)
    convert(converted, plan, track)
    quantized = {n for n, m in converted.named_modules() if isinstance(m, QuantizedLayer | QuantizedMatMul)}
    assert quantized == set(plan)
    assert candidates(converted) == candidates(demo) - set(plan)


@pytest.mark.parametrize(("track", "shared"), [("deployable", True), ("paper", False)])
def test_q_k_and_v_share_their_quantizer_where_a_runtime_does(demo: CLIP, track: Track, shared: bool) -> None:
    converted = copy.deepcopy(demo)
    convert(converted, plan_of(demo, track), track)
    attentions = [m for m in converted.modules() if isinstance(m, Attention | AttentionPool)]
    assert attentions
    for attention in attentions:
        assert not attention.fused
        quantizers = {attention.q.input_quantizer, attention.k.input_quantizer, attention.v.input_quantizer}
        assert len(quantizers) == (1 if shared else 3)


def test_attention_without_a_plan_stays_fused(demo_vit: CLIP) -> None:
    converted = copy.deepcopy(demo_vit)
    convert(converted, make_plan(converted, W3A5, "deployable", {}, ("image",)), "deployable")
    text = converted.text.blocks[0].get_submodule("attn")
    assert isinstance(text, Attention)
    assert text.fused
    tokens = demo_vit.tokenize("a cat")
    assert torch.equal(converted.encode_text(tokens), demo_vit.encode_text(tokens))


@pytest.mark.parametrize(
    "entry",
    [
        LayerPlan(QuantArgs(4, True, "channel"), (QuantArgs(8, False, "tensor"),)),
        LayerPlan(None, (QuantArgs(8, False, "tensor"), QuantArgs(5, False, "tensor"))),
        LayerPlan(QuantArgs(8, True, "channel"), ()),
    ],
    ids=["layer", "product", "token table"],
)
def test_plans_read_back(entry: LayerPlan) -> None:
    assert LayerPlan.from_dict(entry.to_dict()) == entry
