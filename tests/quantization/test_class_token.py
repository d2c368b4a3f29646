"""The class token has a range of its own at 8 bits where activations have fewer, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import d4c
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.tower_config import NoTextConfig, ViTConfig
from d4c.quantization.formats.scheme import QuantArgs, Scheme
from d4c.quantization.layers.activation_quantizer import WIDE_FORMAT, ActivationQuantizer
from d4c.quantization.layers.quantized_product import QuantizedLinear
from d4c.quantization.placement import LayerPlan, make_plan
from d4c.quantization.quantized import QuantizedCLIP

seeds = st.integers(0, 10_000)
Observed = Callable[[ActivationQuantizer, Tensor], ActivationQuantizer]


def tokens(seed: int, channels: int, loud: tuple[int, ...] = ()) -> Tensor:
    """Rows [3, 6, C] whose first one is 20 times larger, with loud channels."""
    torch.manual_seed(seed)
    x = torch.randn(3, 6, channels)
    x[:, 0] *= 20
    x[..., list(loud)] *= 200
    return x


def quantized(clip: CLIP, scheme: str = "W4A4", **settings: Any) -> QuantizedCLIP:
    images = d4c.synthesize(clip, "leaves", images=8, seed=0)
    return d4c.quantize(clip, images, scheme, reconstruction="none", **settings)


@settings(max_examples=40)
@given(st.integers(2, 8), st.integers(2, 7), st.integers(2, 33), st.data(), st.sampled_from([1.0, 30.0]), seeds)
def test_simulation_is_the_integer_arithmetic(
    observed: Observed, weight_bits: int, bits: int, inputs: int, data: st.DataObject, spread: float, seed: int
) -> None:
    loud = tuple(sorted(data.draw(st.sets(st.integers(0, inputs - 1), max_size=min(8, inputs - 1)))))
    x = tokens(seed, inputs, loud)
    quantizer = observed(ActivationQuantizer(QuantArgs(bits, False, "tensor"), inputs, loud, class_token=True), x)
    source = nn.Linear(inputs, 5).requires_grad_(False)
    layer = QuantizedLinear(source, QuantArgs(weight_bits, True, "channel"), quantizer)
    layer.calibrate_weight()
    simulated, integer = layer(spread * x), layer.integer_forward(spread * x)
    largest = 2 * float(quantizer(spread * x).abs().max()) * float(layer.current_weight().abs().sum(1).max())
    assert float((simulated - integer).abs().max()) <= 4e-6 * largest + 1e-6


@given(st.integers(2, 7), st.sampled_from([(), (3, 8)]), seeds)
@settings(max_examples=20)
def test_each_part_is_quantized_as_if_it_were_alone(
    observed: Observed, bits: int, loud: tuple[int, ...], seed: int
) -> None:
    x = tokens(seed, 12, loud)
    y = observed(ActivationQuantizer(QuantArgs(bits, False, "tensor"), 12, loud, class_token=True), x)(x)
    quiet = [channel for channel in range(12) if channel not in loud]
    for rows, args in ((slice(1), WIDE_FORMAT), (slice(1, None), QuantArgs(bits, False, "tensor"))):
        part = x[:, rows][..., quiet]
        assert torch.equal(y[:, rows][..., quiet], observed(ActivationQuantizer(args), part)(part))
    part = x[..., list(loud)]
    assert torch.equal(y[..., list(loud)], observed(ActivationQuantizer(WIDE_FORMAT), part)(part) if loud else part)


def test_both_scales_have_a_gradient_of_their_own(observed: Observed) -> None:
    x = tokens(0, 12)
    quantizer = observed(ActivationQuantizer(QuantArgs(4, False, "tensor"), 12, class_token=True), x)
    assert quantizer.class_token is not None
    scales = quantizer.scale.requires_grad_(True), quantizer.class_token.scale.requires_grad_(True)
    y = quantizer(x)
    for part, (own, other) in ((y[:, 0], scales[::-1]), (y[:, 1:], scales)):
        gradients = torch.autograd.grad(part.square().sum(), (own, other), retain_graph=True, materialize_grads=True)
        assert float(gradients[0].abs()) > 0
        assert float(gradients[1]) == 0


def test_inputs_of_all_blocks_below_8_bits_have_it(short_vit: CLIP) -> None:
    overrides = {"image.blocks.0.mlp.fc1": Scheme.parse("W4A8"), "image.blocks.0.attn.out": None}
    plan = make_plan(short_vit, Scheme.parse("W4A4"), "deployable", overrides, wide_class_token=True)
    chosen = {name for name, entry in plan.items() if entry.class_token}
    readers = {f"image.{layer}" for layer in short_vit.image.class_token_readers()}
    assert chosen == readers - set(overrides)
    assert all(LayerPlan.from_dict(plan[name].to_dict()) == plan[name] for name in plan)


def test_at_8_bits_nothing_changes(short_vit: CLIP) -> None:
    scheme = Scheme.parse("W4A8")
    plans = [make_plan(short_vit, scheme, "deployable", {}, wide_class_token=wide) for wide in (False, True)]
    assert plans[0] == plans[1]


@torch.no_grad()
def test_embeddings_at_four_bits_come_closer(demo_vit: CLIP) -> None:
    pixels = d4c.synthesize(demo_vit, "leaves", images=8, seed=1).pixels
    reference = demo_vit.encode_image(pixels)
    errors = [
        1
        - F.cosine_similarity(
            quantized(demo_vit, towers=("image",), wide_class_token=wide).encode_image(pixels), reference
        ).mean()
        for wide in (False, True)
    ]
    assert float(errors[1]) < 0.7 * float(errors[0])  # measured: 0.5


def test_an_artifact_reads_back(short_vit: CLIP, tmp_path: Path) -> None:
    clip = quantized(short_vit)
    clip.save_pretrained(tmp_path / "artifact")
    pixels = torch.randn(2, 3, 64, 64)
    assert torch.equal(d4c.load_quantized(tmp_path / "artifact").encode_image(pixels), clip.encode_image(pixels))
    assert "the class token has its own range" in (tmp_path / "artifact" / "README.md").read_text()


@pytest.mark.parametrize(
    ("scheme", "overrides", "recorded"),
    [("W4A4", {}, True), ("W4A8", {}, False), ("W4A8", {"image.blocks.1.mlp.*": "W4A4"}, True)],
)
def test_the_recipe_says_whether_some_layer_has_it(
    short_vit: CLIP, scheme: str, overrides: dict[str, str], recorded: bool
) -> None:
    assert quantized(short_vit, scheme, overrides=overrides).recipe["wide_class_token"] is recorded


def test_other_towers_and_the_published_places_have_none(demo_rn: CLIP, short_vit: CLIP) -> None:
    config = ViTConfig(64, 16, 32, 1, 2, 64, class_token=False, pooling="average")
    without = CLIP(CLIPConfig(16, config, NoTextConfig())).eval()
    scheme = Scheme.parse("W4A4")
    plans = [make_plan(clip, scheme, "deployable", {}, wide_class_token=True) for clip in (demo_rn, without)]
    plans += [make_plan(short_vit, scheme, "paper", {}, wide_class_token=True)]
    plans += [make_plan(short_vit, scheme, "deployable", {}, ("text",), wide_class_token=True)]
    assert not any(entry.class_token for plan in plans for entry in plan.values())
