"""What calibration lets the quantizers see."""

from __future__ import annotations

import copy

import pytest
import torch
from PIL import Image
from torch import Tensor

import d4c
from d4c.errors import DataError
from d4c.models.clip import CLIP
from d4c.quantization import calibrate as calibration
from d4c.quantization.calibrate import calibrate, set_pixel_range
from d4c.quantization.formats.scheme import QuantArgs, Scheme
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_product import QuantizedConv2d
from d4c.quantization.placement import convert, make_plan
from d4c.quantization.quantized import QuantizedCLIP


def test_batches_hold_every_prompt_once_and_no_padding(demo_vit: CLIP) -> None:
    texts = [f"{'very ' * (i % 5)}small cat number {i}" for i in range(40)]
    tokens = demo_vit.tokenize(texts)
    batches = list(demo_vit.text.batches(tokens, 6))
    assert sorted(torch.cat(batches).tolist()) == sorted(tokens.tolist())
    for batch in batches:
        assert 1 <= len(batch) <= 6
        cropped = demo_vit.text.crop(batch)
        assert bool((demo_vit.text.pooled_position(batch) == cropped.shape[1] - 1).all())


def test_without_trimming_batches_are_as_they_come(demo_vit: CLIP) -> None:
    clip = copy.deepcopy(demo_vit)
    clip.text.trim = False
    tokens = clip.tokenize(["a", "a very long prompt", "b"])
    assert [batch.tolist() for batch in clip.text.batches(tokens, 2)] == [tokens[:2].tolist(), tokens[2:].tolist()]


def calibrated_text(clip: CLIP, tokens: Tensor) -> dict[str, Tensor]:
    """Every range of a text tower at W8A8."""
    quantized = copy.deepcopy(clip)
    convert(quantized, make_plan(quantized, Scheme(8, 8), "deployable", {}, ("text",)), "deployable")
    calibrate(quantized, torch.empty(0), tokens, ("text",), deployable=True)
    return {
        f"{name}.{key}": value
        for name, module in quantized.named_modules()
        if isinstance(module, ActivationQuantizer)
        for key, value in module.state_dict().items()
    }


def test_ranges_ignore_what_follows_end_of_text(tiny_vit: CLIP, prompts: list[str]) -> None:
    tokens = tiny_vit.tokenize(prompts)
    other = tokens.clone()
    for row, end in zip(other, tiny_vit.text.pooled_position(tokens).tolist(), strict=True):
        row[end + 1 :] = torch.randint(1, 40_000, (len(row) - end - 1,))
    plain, padded = calibrated_text(tiny_vit, tokens), calibrated_text(tiny_vit, other)
    assert all(torch.equal(padded[name], value) for name, value in plain.items())
    # Scale and zero point of q = k = v, out, fc1, fc2 and four operands in each of two blocks, and the projection.
    assert len(plain) == 2 * (2 * 8 + 1)


def test_quantizers_of_one_tensor_have_the_range_that_each_would_find(
    tiny_vit: CLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = d4c.synthesize(tiny_vit, "noise", images=4).pixels

    def state(scheme_of_k: str) -> dict[str, Tensor]:
        quantized = copy.deepcopy(tiny_vit)
        overrides = {"image.blocks.0.attn.k": Scheme.parse(scheme_of_k)}
        convert(quantized, make_plan(quantized, Scheme(4, 4), "paper", overrides, ("image",)), "paper")
        calibrate(quantized, pixels, torch.empty(0), ("image",), deployable=False)
        return quantized.image.state_dict()

    shared = {scheme: state(scheme) for scheme in ("W4A4", "W4A8")}
    monkeypatch.setattr(calibration, "_twins", lambda _: {})
    for scheme, state_of_shared in shared.items():
        assert all(torch.equal(state_of_shared[key], value) for key, value in state(scheme).items())
    # The same tensor in another format is another range.
    key = "blocks.0.attn.k.input_quantizer.scale"
    assert not torch.equal(shared["W4A4"][key], shared["W4A8"][key])


def test_the_first_layer_covers_every_picture(w4a8: QuantizedCLIP) -> None:
    clip = w4a8
    first = clip.get_submodule("image.patch_embed" if "image.patch_embed" in clip.plan else "image.stem.conv1")
    assert isinstance(first, QuantizedConv2d)
    quantizer = first.input_quantizer
    mean, std = torch.tensor(clip.config.mean), torch.tensor(clip.config.std)
    black, white = (-mean / std).min(), ((1 - mean) / std).max()
    low, high = (edge * quantizer.scale for edge in (-quantizer.zero_point, 255 - quantizer.zero_point))
    assert float(high - low) == pytest.approx(float(white - black), rel=1e-6)
    # The zero point is an integer, which moves both edges by up to half a step.
    assert abs(float(low - black)) <= float(quantizer.scale) / 2 * 1.001


def test_pixel_range_depends_on_mean_and_std_alone(demo_vit: CLIP) -> None:
    quantizer = ActivationQuantizer(QuantArgs(8, False, "tensor"))
    set_pixel_range(demo_vit, quantizer)
    colors = [Image.new("RGB", (8, 8), color) for color in ("black", "white", "red", "blue", "yellow")]
    x = torch.stack([demo_vit.preprocess(color) for color in colors])
    assert float((quantizer(x) - x).abs().max()) <= float(quantizer.scale) * 1.001


def test_calibration_leaves_no_observer_behind_when_it_fails(demo_vit: CLIP) -> None:
    quantized = copy.deepcopy(demo_vit)
    convert(quantized, make_plan(quantized, Scheme(8, 8), "deployable", {}), "deployable")
    pixels = d4c.synthesize(demo_vit, "noise", images=2).pixels
    pixels[0] = float("nan")
    with pytest.raises(DataError, match=r"image\.patch_embed\.input_quantizer contains NaN"):
        calibrate(quantized, pixels, demo_vit.tokenize("a cat"), ("image", "text"), deployable=True)
    assert all(m.observer is None for m in quantized.modules() if isinstance(m, ActivationQuantizer))
