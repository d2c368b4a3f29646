"""What each track quantizes, by name."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from d4c.errors import SettingError
from d4c.models.clip import CLIP
from d4c.models.layers import Add, Attention, Block, MatMul
from d4c.models.resnet import AttentionPool
from d4c.models.vit import VisionTransformer
from d4c.quantization.formats.scheme import QuantArgs, Scheme, Track
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_activations import QuantizedAvgPool2d, QuantizedPair
from d4c.quantization.layers.quantized_weight import QuantizedLayer
from d4c.quantization.placement import LayerPlan, Plan, convert, default_overrides, make_plan, shared_inputs

W3A5 = Scheme(3, 5)
PRODUCTS = nn.Linear | nn.Conv2d | nn.Embedding | MatMul
KINDS = PRODUCTS | Add | nn.AvgPool2d


def plan_of(clip: CLIP, track: Track, overrides: dict[str, Scheme] | None = None) -> Plan:
    return make_plan(clip, W3A5, track, default_overrides(clip, track) if overrides is None else overrides)


def candidates(clip: CLIP, kinds: Any = KINDS) -> set[str]:
    return {name for name, module in clip.named_modules() if isinstance(module, kinds)}


def bits(entry: LayerPlan) -> tuple[int, ...]:
    weights = () if entry.weights is None else (entry.weights.num_bits,)
    return (*weights, *(args.num_bits for args in entry.inputs))


def test_deployable_quantizes_every_product_sum_and_pool(demo: CLIP) -> None:
    assert set(plan_of(demo, "deployable")) == candidates(demo)


def test_paper_leaves_exactly_the_published_list_in_float(demo: CLIP) -> None:
    """Patch or stem convolutions, shortcuts, token table and both final projections; sums and pools."""
    left = candidates(demo, PRODUCTS) - set(plan_of(demo, "paper"))
    expected = {"text.token_embedding", "text.projection"}
    if isinstance(demo.image, VisionTransformer):
        expected |= {"image.patch_embed", "image.projection"}
    else:
        expected |= {f"image.stem.conv{i}" for i in (1, 2, 3)}
        # The first bottleneck of each of the four stages.
        expected |= {f"image.blocks.{i}.downsample.conv" for i in (0, 2, 4, 7)}
    assert left == expected
    assert set(plan_of(demo, "paper")) <= candidates(demo, PRODUCTS)


def test_paper_holds_the_text_mlps_at_8_bits_and_nothing_else(demo: CLIP) -> None:
    plan = plan_of(demo, "paper")
    mlps = {name for name in plan if re.fullmatch(r"text\.blocks\.\d\.mlp\.fc[12]", name)}
    assert len(mlps) == 6
    assert all(bits(plan[name]) == (8, 8) for name in mlps)
    assert all(set(bits(plan[name])) <= {3, 5} for name in set(plan) - mlps)


def test_paper_has_a_scale_per_channel_exactly_where_published(demo: CLIP) -> None:
    """Inputs of q, k, v and of the first MLP layer, and of the second MLP layer of the text tower."""
    plan = plan_of(demo, "paper")
    per_channel = {name for name, entry in plan.items() if any(args.strategy == "channel" for args in entry.inputs)}
    layers = {"image": sum(isinstance(b, Block) for b in demo.image.blocks), "text": len(demo.text.blocks)}
    readers = ("attn.q", "attn.k", "attn.v", "mlp.fc1")
    expected = {f"{tower}.blocks.{i}.{r}" for tower, count in layers.items() for i in range(count) for r in readers}
    assert per_channel == expected | {f"text.blocks.{i}.mlp.fc2" for i in range(layers["text"])}


def test_weights_are_symmetric_on_the_deployable_track_alone(demo: CLIP) -> None:
    for track, symmetric in (("deployable", True), ("paper", False)):
        plan = plan_of(demo, track)  # type: ignore[arg-type]
        formats = {(e.weights.symmetric, e.weights.strategy) for e in plan.values() if e.weights is not None}
        assert formats == {(symmetric, "channel")}
        assert not any(args.symmetric for e in plan.values() for args in e.inputs)


STEM = {f"image.stem.conv{i}" for i in (1, 2, 3)}


def test_deployable_exceptions_are_the_ends_of_the_towers(demo: CLIP) -> None:
    plan = plan_of(demo, "deployable")
    eight = {name for name, entry in plan.items() if bits(entry) == (8, 8)}
    ends = {"image.patch_embed", "image.projection", "image.pool.out", "text.projection"} | STEM
    assert eight - candidates(demo, Add) == ends & candidates(demo)
    assert bits(plan["text.token_embedding"]) == (8,)


def test_between_the_bottlenecks_and_in_pools_8_bits_are_held(demo_rn: CLIP) -> None:
    """What reads such a state holds its weights at the scheme's bits; all other inputs are the scheme's too."""
    plan = plan_of(demo_rn, "deployable")
    wide = {name for name, entry in plan.items() if {args.num_bits for args in entry.inputs} == {8}}
    states = candidates(demo_rn, Add | nn.AvgPool2d)
    readers = {f"image.blocks.{i}.conv1" for i in range(len(demo_rn.image.blocks))} - {"image.blocks.0.conv1"}
    ends = {"image.pool.out", "text.projection"} | STEM
    assert wide == states | readers | ends
    assert {bits(plan[name]) for name in readers} == {(3, 8)}


@pytest.mark.parametrize("reader", ["conv1", "add"])
def test_a_state_takes_the_widest_format_of_its_readers(demo_rn: CLIP, reader: str) -> None:
    """Block 1 has no layer in its shortcut, so that its sum reads what its first convolution reads."""
    plan = plan_of(demo_rn, "deployable", {f"image.blocks.1.{reader}": Scheme(2, 7)})
    assert plan["image.blocks.1.conv1"].inputs == (QuantArgs(7, False, "tensor"),)
    assert plan["image.blocks.1.add"].inputs[1] == QuantArgs(7, False, "tensor")
    assert plan["image.blocks.1.add"].inputs[0].num_bits == (7 if reader == "add" else 5)
    assert bits(plan["image.blocks.1.conv1"])[0] == (2 if reader == "conv1" else 3)
    assert bits(plan["image.blocks.2.conv1"]) == (3, 5)


@torch.no_grad()
def test_on_the_deployable_track_no_tensor_is_quantized_twice(demo: CLIP) -> None:
    """And what reads one tensor reads it through one quantizer."""
    converted = copy.deepcopy(demo)
    convert(converted, plan_of(demo, "deployable"), "deployable")
    seen: list[tuple[torch.Tensor, ActivationQuantizer]] = []
    for module in converted.modules():
        if isinstance(module, ActivationQuantizer):
            module.register_forward_pre_hook(lambda quantizer, given: seen.append((given[0], quantizer)))
    size = demo.image_size
    converted.encode_image(torch.randn(1, 3, size, size))
    converted.encode_text(demo.tokenize("a cat"))
    by_tensor: dict[int, set[ActivationQuantizer]] = {}
    for tensor, quantizer in seen:  # `seen` keeps the tensors, so that no number is used again
        by_tensor.setdefault(id(tensor), set()).add(quantizer)
    assert {len(quantizers) for quantizers in by_tensor.values()} == {1}
    several = [group for group in shared_inputs(demo) if len(group) > 1]
    assert len(seen) > len(by_tensor) >= len(seen) - 2 * len(several)


def test_a_plan_with_two_formats_for_one_tensor_is_refused(demo_rn: CLIP) -> None:
    plan = plan_of(demo_rn, "deployable")
    plan["image.blocks.1.conv1"] = replace(plan["image.blocks.1.conv1"], inputs=(QuantArgs(4, False, "tensor"),))
    with pytest.raises(ValueError, match=r"image\.blocks\.1\.add"):
        convert(copy.deepcopy(demo_rn), plan, "deployable")


def test_the_last_override_that_matches_wins(demo_vit: CLIP) -> None:
    first, second = Scheme(8, 8), Scheme(6, 7)
    overrides = {"image.blocks.*": first, "image.blocks.1.mlp.fc1": second}
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
    kinds = QuantizedLayer | QuantizedPair | QuantizedAvgPool2d
    quantized = {name for name, module in converted.named_modules() if isinstance(module, kinds)}
    assert quantized == set(plan)
    assert candidates(converted) == candidates(demo) - set(plan)


@pytest.mark.parametrize(("track", "shared"), [("deployable", True), ("paper", False)])
def test_q_k_and_v_share_their_quantizer_where_a_runtime_does(demo: CLIP, track: Track, shared: bool) -> None:
    converted = copy.deepcopy(demo)
    convert(converted, plan_of(demo, track), track)
    attentions = [m for m in converted.modules() if isinstance(m, Attention | AttentionPool)]
    assert attentions
    for attention in attentions:
        assert not attention.plain
        quantizers = {attention.q.input_quantizer, attention.k.input_quantizer, attention.v.input_quantizer}
        assert len(quantizers) == (1 if shared else 3)


def test_attention_without_a_plan_stays_plain(demo_vit: CLIP) -> None:
    converted = copy.deepcopy(demo_vit)
    convert(converted, make_plan(converted, W3A5, "deployable", {}, ("image",)), "deployable")
    text = converted.text.blocks[0].get_submodule("attn")
    assert isinstance(text, Attention)
    assert text.plain
    tokens = demo_vit.tokenize("a cat")
    assert torch.equal(converted.encode_text(tokens), demo_vit.encode_text(tokens))


@pytest.mark.parametrize(
    "entry",
    [
        LayerPlan(QuantArgs(4, True, "channel"), (QuantArgs(8, False, "tensor"),)),
        LayerPlan(None, (QuantArgs(8, False, "tensor"), QuantArgs(5, False, "tensor"))),
        LayerPlan(None, (QuantArgs(8, False, "tensor"),)),
        LayerPlan(QuantArgs(8, True, "channel"), ()),
    ],
    ids=["layer", "product", "pool", "token table"],
)
def test_plans_read_back(entry: LayerPlan) -> None:
    assert LayerPlan.from_dict(entry.to_dict()) == entry
