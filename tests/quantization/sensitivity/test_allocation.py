"""Mixed precision: the solver against brute force, and models that keep to their target."""

from __future__ import annotations

import copy
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

import d4c
from d4c.calibration.prompts import generic_prompts
from d4c.errors import SettingError
from d4c.evaluation.load_dataset import load_dataset
from d4c.models.clip import CLIP
from d4c.models.formats.identity import model_hash
from d4c.quantization.config import quantize_config
from d4c.quantization.layer_patterns import matches
from d4c.quantization.quantize import check_layers
from d4c.quantization.quantized import QuantizedCLIP
from d4c.quantization.sensitivity.allocation import allocate, patterns

PROMPTS = ["a photo of a cat.", "tree", "two dogs in the snow", "the moon over the sea"]
WIDTHS = (4, 6, 8)
PRODUCTS = torch.nn.Linear | torch.nn.Conv2d

layers = st.lists(
    st.tuples(
        st.fixed_dictionaries({bits: st.floats(-1, 1) for bits in WIDTHS}),
        st.fixed_dictionaries({bits: st.integers(0, 50) for bits in WIDTHS}),
    ),
    min_size=1,
    max_size=5,
)


@given(layers, st.floats(0, 1))
def test_no_choice_that_fits_has_a_smaller_loss(
    drawn: list[tuple[dict[int, float], dict[int, int]]], part: float
) -> None:
    losses = {str(i): loss for i, (loss, _) in enumerate(drawn)}
    sizes = {str(i): size for i, (_, size) in enumerate(drawn)}
    least, most = (sum(pick(size.values()) for size in sizes.values()) for pick in (min, max))
    budget = least + int(part * (most - least))

    def total(by_width: dict[str, Any], chosen: dict[str, int]) -> float:
        return sum(by_width[name][bits] for name, bits in chosen.items())

    choices = [dict(zip(losses, widths, strict=True)) for widths in itertools.product(WIDTHS, repeat=len(drawn))]
    best = min(total(losses, choice) for choice in choices if total(sizes, choice) <= budget)
    chosen = allocate(losses, sizes, budget)
    assert list(chosen) == list(losses)
    assert total(sizes, chosen) <= budget
    assert total(losses, chosen) == pytest.approx(best, abs=1e-12)


def test_a_budget_that_nothing_fits_is_refused() -> None:
    with pytest.raises(SettingError, match="smallest choice takes 10"):
        allocate({"a": {4: 0.0}}, {"a": {4: 10}}, 9)


@given(st.data())
def test_patterns_choose_each_layer_once_and_no_other(demo_vit: CLIP, data: st.DataObject) -> None:
    names = [name for name, module in demo_vit.named_modules() if hasattr(module, "weight")]
    widths = data.draw(st.dictionaries(st.sampled_from(names), st.sampled_from(WIDTHS)))
    by_pattern = patterns(widths)
    chosen = {name: [bits for p, bits in by_pattern.items() if matches(p, name)] for name in names}
    assert chosen == {name: [widths[name]] if name in widths else [] for name in names}


def test_blocks_of_one_width_share_a_pattern() -> None:
    names = ["image.blocks.0.attn.q", "image.blocks.10.attn.q", "image.blocks.2.attn.k", "image.stem.conv2"]
    assert patterns(dict.fromkeys(names, 6)) == {
        "image.blocks.{0,10}.attn.q": 6,
        "image.blocks.2.attn.k": 6,
        "image.stem.conv2": 6,
    }


def made(clip: CLIP, scheme: str = "W4A8", **settings: Any) -> QuantizedCLIP:
    calibration = d4c.synthesize(clip, "leaves", images=4)
    return d4c.quantize(clip, calibration, scheme, **{"reconstruction": "none", "prompts": PROMPTS, **settings})


@pytest.mark.parametrize("part", [0.01, 0.4, 1.0])
def test_mean_bits_stay_below_the_target(tiny_rn: CLIP, part: float) -> None:
    """They need not reach it: a layer that measures no better with more bits is left with fewer."""
    count = sum(module.weight.numel() for module in tiny_rn.image.modules() if isinstance(module, PRODUCTS))
    held = ("stem.conv1", "stem.conv2", "stem.conv3", "pool.out")
    eight = sum(tiny_rn.image.get_parameter(f"{name}.weight").numel() for name in held)
    least = (3 * count + 5 * eight) / count
    target = least + part * (8 - least)
    assert least <= made(tiny_rn, target_bits=target, towers=("image",)).effective_bits() <= target


def test_packed_weights_stay_within_the_bytes(tiny_vit: CLIP, tmp_path: Path) -> None:
    def packed(quantized: QuantizedCLIP, name: str) -> int:
        quantized.save_pretrained(tmp_path / name)
        with safe_open(tmp_path / name / "model.safetensors", "pt") as stored:
            keys = [key for key in stored.keys() if key.endswith(".weight_packed")]  # noqa: SIM118
            return sum(stored.get_slice(key).get_shape()[0] for key in keys)

    counts = {name: layer.stored_weights() for name, layer in made(tiny_vit, towers=("image",)).layers().items()}
    target = 6 * sum(counts.values()) // 8
    mixed = made(tiny_vit, target_bytes=target, towers=("image",))
    assert 0.8 * target < packed(mixed, "mixed") <= target


def test_each_width_is_an_override_that_is_saved_with_the_artifact(tiny_vit: CLIP, tmp_path: Path) -> None:
    quantized = made(tiny_vit, target_bits=6.0, towers=("image",))
    bits = {name: layer.weight_args.num_bits for name, layer in quantized.layers().items()}
    assert len(set(bits.values())) > 2
    for name, width in bits.items():
        schemes = [s for p, s in quantized.recipe["overrides"].items() if matches(p, name)]
        assert schemes == ([] if width == 4 else [f"W{width}A8"])
    assert (quantized.recipe["target_bits"], quantized.recipe["target_bytes"]) == (6.0, None)
    quantized.save_pretrained(tmp_path)
    assert model_hash(d4c.load_quantized(tmp_path)) == model_hash(quantized)


def test_overrides_of_the_user_hold(tiny_vit: CLIP) -> None:
    overrides = {"image.blocks.1.*": "W3A8"}
    layers = made(tiny_vit, overrides=overrides, target_bits=5.0, towers=("image",)).layers()
    assert {layer.weight_args.num_bits for name, layer in layers.items() if "blocks.1." in name} == {3}


@pytest.mark.slow
def test_at_equal_bytes_widths_by_sensitivity_are_nearer_to_float(
    demo_rn: CLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shortcuts of the ResNet hold few weights and much of the loss; three widths are enough for it."""
    monkeypatch.setattr("d4c.quantization.sensitivity.allocation.CHOICES", (3, 4, 5))
    dataset = load_dataset("demo").subset(60)
    # Of a handful of prompts the divergence says little.
    settings: dict[str, Any] = {"towers": ("image",), "prompts": generic_prompts(64)}
    uniform = made(demo_rn, "W4A8", **settings)
    mixed = made(demo_rn, "W4A8", **settings, target_bits=uniform.effective_bits())
    assert mixed.effective_bits() <= uniform.effective_bits()
    by_sensitivity, same = (d4c.evaluate(model, dataset, reference=demo_rn).fidelity for model in (mixed, uniform))
    assert by_sensitivity is not None
    assert same is not None
    assert by_sensitivity.kl < 0.9 * same.kl  # measured: 0.79


def test_the_least_target_that_a_refusal_names_is_reached(tiny_vit: CLIP) -> None:
    """And the refusal comes from shapes alone: the towers here have no values."""
    shapes = copy.deepcopy(tiny_vit).to("meta")
    with pytest.raises(SettingError, match=r"expected \d+ to \d+") as caught:
        check_layers(shapes, quantize_config("W4A8", settings={"target_bytes": 1, "towers": ("image",)}))
    least = int(re.findall(r"expected (\d+) to", str(caught.value))[0])
    made(tiny_vit, target_bytes=least, towers=("image",))
    with pytest.raises(SettingError, match=f"expected {least} to"):
        made(tiny_vit, target_bytes=least - 1, towers=("image",))


BAD_TARGETS = {
    "too few bits": ({"target_bits": 1.0}, r"1\.0 bits per weight, expected \d\.\d\d to 8\.00"),
    "too many bits": ({"target_bits": 8.5}, r"8\.5 bits per weight, expected \d\.\d\d to 8\.00"),
    "no number": ({"target_bits": float("nan")}, "target_bits is nan, expected a finite number"),
    "too few bytes": ({"target_bytes": 0}, r"0 bytes of weights, expected \d+ to \d+"),
    "both": ({"target_bits": 5.0, "target_bytes": 10}, "exclude each other"),
}


@pytest.mark.parametrize(("settings", "about"), BAD_TARGETS.values(), ids=BAD_TARGETS)
def test_targets_that_are_refused(tiny_vit: CLIP, settings: dict[str, Any], about: str) -> None:
    with pytest.raises(SettingError, match=about) as caught:
        made(tiny_vit, towers=("image",), **settings)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
