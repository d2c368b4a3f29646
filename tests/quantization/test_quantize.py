"""The verb `quantize` on the embedded models."""

from __future__ import annotations

import copy
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import d4c
from d4c.calibration.images import CalibrationSet
from d4c.calibration.prompts import generic_prompts
from d4c.calibration.softening import softened
from d4c.errors import CheckpointError, DataError, SettingError
from d4c.evaluation.batches import pixel_batches
from d4c.evaluation.load_dataset import load_dataset
from d4c.models.clip import CLIP
from d4c.models.formats.identity import model_hash, model_record
from d4c.progress import WHOLE
from d4c.quantization.artifact.read import read_artifact
from d4c.quantization.formats.pair_sums import rows_that_fit
from d4c.quantization.layers.quantized_product import QuantizedConv2d, QuantizedLinear
from d4c.quantization.quantized import QuantizedCLIP
from d4c.quantization.stages import stages

PROMPTS = ["a photo of a cat.", "tree", "two dogs in the snow", "the moon over the sea"]
# Fewer leave ranges that words of other prompts do not fit in: cosine 0.93 with four, even at 8 bits.
ENOUGH = generic_prompts(64)


def made(clip: CLIP, scheme: str = "W4A8", **settings: Any) -> QuantizedCLIP:
    calibration = d4c.synthesize(clip, "noise", images=4)
    return d4c.quantize(clip, calibration, scheme, **{"reconstruction": "none", "prompts": PROMPTS, **settings})


def emoji(clip: CLIP) -> torch.Tensor:
    return next(iter(pixel_batches(load_dataset("demo").subset(24), clip.preprocess, 24)))


@torch.no_grad()
def cosines(clip: CLIP, quantized: CLIP) -> tuple[float, float]:
    """Mean cosine of quantized with float embeddings: of emoji, and of prompts that calibration did not see."""
    tokens = clip.tokenize(["an emoji of a dog.", "a red apple", "a cartoon face with tears of joy"])
    pixels = emoji(clip)
    image = torch.cosine_similarity(quantized.encode_image(pixels), clip.encode_image(pixels))
    text = torch.cosine_similarity(quantized.encode_text(tokens), clip.encode_text(tokens))
    return float(image.mean()), float(text.mean())


@pytest.fixture(scope="module")
def by_bits(demo_vit: CLIP) -> dict[str, QuantizedCLIP]:
    calibration = d4c.synthesize(demo_vit, "leaves", images=16)
    schemes = ("W8A8", "W6A6", "W4A4")
    return {s: d4c.quantize(demo_vit, calibration, s, reconstruction="none", prompts=ENOUGH) for s in schemes}


def test_eight_bits_are_nearly_float(demo_vit: CLIP, by_bits: dict[str, QuantizedCLIP]) -> None:
    image, text = cosines(demo_vit, by_bits["W8A8"])
    assert image > 0.99
    assert text > 0.99


def test_eight_bits_of_a_resnet_are_nearly_float(demo_rn: CLIP) -> None:
    calibration = d4c.synthesize(demo_rn, "leaves", images=16)
    image, text = cosines(demo_rn, d4c.quantize(demo_rn, calibration, "W8A8", reconstruction="none", prompts=ENOUGH))
    assert image > 0.99
    assert text > 0.99


@torch.no_grad()
def test_a_tower_of_integer_arithmetic_is_the_simulation(w4a8: QuantizedCLIP) -> None:
    """Stage by stage: codes at rounding boundaries may fall differently."""
    integers = copy.deepcopy(w4a8)
    for module in integers.modules():
        if hasattr(module, "integer_forward"):
            setattr(module, "forward", module.integer_forward)  # noqa: B010  # mypy knows a method there
    for tower, inputs in (("image", emoji(w4a8)[:2]), ("text", w4a8.text.crop(w4a8.tokenize(PROMPTS)))):
        state = inputs
        for stage in stages(w4a8, tower):
            expected = stage.run(w4a8, state, inputs)
            found = stage.run(integers, state, inputs)
            assert float((found - expected).norm() / expected.norm()) < 0.01, stage.name
            state = expected


def test_more_bits_are_nearer_to_float(demo_vit: CLIP, by_bits: dict[str, QuantizedCLIP]) -> None:
    (image_8, text_8), (image_6, text_6), (image_4, text_4) = (cosines(demo_vit, q) for q in by_bits.values())
    assert image_4 < image_6 < image_8
    assert text_4 < text_6 < text_8


def test_effective_bits_count_every_weight_and_the_token_rows_in_use(
    demo_vit: CLIP, by_bits: dict[str, QuantizedCLIP]
) -> None:
    assert by_bits["W8A8"].effective_bits() == 8
    six = by_bits["W6A6"]
    sizes = {name: layer.codes.numel() for name, layer in six.layers().items()}
    table = demo_vit.text.token_embedding.weight
    sizes["text.token_embedding"] = int(table.any(1).sum()) * table.shape[1]
    eight = {"image.patch_embed", "image.projection", "text.projection", "text.token_embedding"}
    bits = sum(n * (8 if name in eight else 6) for name, n in sizes.items())
    assert six.effective_bits() == pytest.approx(bits / sum(sizes.values()))


@pytest.mark.parametrize("track", ["deployable", "paper"])
def test_the_float_model_is_left_as_it_is(tiny_rn: CLIP, track: str) -> None:
    before, trim = model_hash(tiny_rn), tiny_rn.text.trim
    made(tiny_rn, "W4A4", track=track, reconstruction="layer", iterations=1, towers=("image",))
    assert model_hash(tiny_rn) == before
    assert tiny_rn.text.trim == trim


def test_the_same_seed_gives_the_same_model(tiny_vit: CLIP) -> None:
    first, second, other = (made(tiny_vit, "W4A4", reconstruction=None, iterations=3, seed=seed) for seed in (0, 0, 1))
    assert model_hash(first) == model_hash(second)
    assert model_hash(first) != model_hash(other)


def test_learning_does_not_need_gradients_of_the_caller(tiny_vit: CLIP) -> None:
    settings: dict[str, Any] = {"reconstruction": "layer", "iterations": 2, "batch_size": 2}
    usual = made(tiny_vit, **settings)
    with torch.no_grad():
        within = made(tiny_vit, **settings)
    assert model_hash(within) == model_hash(usual)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_tower_that_is_not_named_stays_float(demo_rn: CLIP, tower: str) -> None:
    other = "text" if tower == "image" else "image"
    quantized = made(demo_rn, towers=(tower,))
    assert model_hash(getattr(quantized, other)) == model_hash(getattr(demo_rn, other))
    assert all(name.startswith(tower) for name in quantized.layers())
    tokens, pixels = demo_rn.tokenize(PROMPTS), emoji(demo_rn)[:2]
    same_text = torch.equal(quantized.encode_text(tokens), demo_rn.encode_text(tokens))
    same_image = torch.equal(quantized.encode_image(pixels), demo_rn.encode_image(pixels))
    assert (same_image, same_text) == (tower == "text", tower == "image")


def test_the_recipe_says_how_it_was_made(w4a8: QuantizedCLIP, demo: CLIP) -> None:
    recipe = w4a8.recipe
    assert (recipe["scheme"], recipe["track"], recipe["towers"]) == ("W4A8", "deployable", ["image", "text"])
    assert recipe["model"] == model_record(demo)
    assert recipe["calibration"]["method"] == "noise"
    assert (recipe["reconstruction"], recipe["iterations"]) == ("none", None)
    assert recipe["peak_memory_bytes"] is None  # known on GPUs alone


def test_overrides_reach_the_layers(tiny_vit: CLIP) -> None:
    quantized = made(tiny_vit, "W4A4", overrides={"image.blocks.0.*": "W7A5"})
    bits = {name: layer.weight_args.num_bits for name, layer in quantized.layers().items()}
    assert (bits["image.blocks.0.mlp.fc1"], bits["image.blocks.1.mlp.fc1"]) == (7, 4)
    assert quantized.recipe["overrides"]["image.blocks.0.*"] == "W7A5"


@torch.no_grad()
def test_a_tower_that_overrides_leave_float_is_not_touched(tiny_vit: CLIP) -> None:
    by_override = made(tiny_vit, overrides={"text.*": "float"})
    by_choice = made(tiny_vit, towers=("image",))
    tokens, pixels = tiny_vit.tokenize(PROMPTS), emoji(tiny_vit)[:2]
    assert torch.equal(by_override.encode_image(pixels), by_choice.encode_image(pixels))
    torch.testing.assert_close(by_override.encode_text(tokens), tiny_vit.encode_text(tokens))
    assert by_override.recipe["towers"] == ["image"]
    assert by_override.recipe["overrides"]["text.*"] == "float"


def test_a_layer_that_an_override_leaves_float_is_read_back_so(tiny_vit: CLIP, tmp_path: Path) -> None:
    quantized = made(tiny_vit, overrides={"image.blocks.0.*": "float", "image.blocks.0.attn.*": "W8A8"})
    assert "image.blocks.0.mlp.fc1" not in quantized.layers()
    assert quantized.layers()["image.blocks.0.attn.q"].weight_args.num_bits == 8
    quantized.save_pretrained(tmp_path / "artifact")
    again = read_artifact(tmp_path / "artifact")
    assert again.layers().keys() == quantized.layers().keys()
    pixels = emoji(tiny_vit)[:2]
    assert torch.equal(again.encode_image(pixels), quantized.encode_image(pixels))


@pytest.mark.parametrize(
    "settings",
    [
        {"reconstruction": "none"},
        {"reconstruction": "gptq"},
        {"reconstruction": "block", "iterations": 1},
        {"reconstruction": "layer", "iterations": 1},
        {"reconstruction": "none", "target_bits": 7.95},
    ],
    ids=str,
)
def test_progress_knows_the_total_at_once_and_counts_up_to_it(tiny_vit: CLIP, settings: dict[str, Any]) -> None:
    calls: list[tuple[int, int]] = []
    made(tiny_vit, **settings, progress=lambda *call: calls.append(call))
    assert calls[0] == (0, WHOLE)
    assert calls[-1] == (WHOLE, WHOLE)
    assert calls == sorted(calls)
    assert len(set(calls)) > 20


SETTINGS = {
    "scheme": ({"scheme": "W4"}, "not of the form W4A8"),
    "track": ({"track": "fast"}, "track is 'fast', expected 'deployable' or 'paper'"),
    "reconstruction": ({"reconstruction": "magic"}, "reconstruction is 'magic', expected 'block' or"),
    "iterations": ({"iterations": 0}, "from 1 to 1000000"),
    "importance": ({"importance": "all"}, "importance is 'all', expected 'none' or"),
    "tower": ({"towers": ("audio",)}, "towers is .*, expected a list of"),
    "no tower": ({"towers": ()}, "towers is empty"),
    "override": ({"overrides": {"image.nothing": "W8A8"}}, "matches no layer"),
    "nothing left": ({"overrides": {"*": "float"}}, "leave all layers float"),
    "no weight of one bit": ({"scheme": "W1A8"}, "weight bits"),
    "no activation of 99 bits": ({"scheme": "W4A99"}, "activation bits"),
    "override scheme": ({"overrides": {".*": "W99A8"}}, "weight bits"),
}


def assert_one_sentence(message: str) -> None:
    assert "\n" not in message
    assert message.endswith(".")


@pytest.mark.parametrize(("settings", "about"), SETTINGS.values(), ids=SETTINGS)
def test_settings_that_are_refused(tiny_vit: CLIP, settings: dict[str, Any], about: str) -> None:
    with pytest.raises(SettingError, match=about) as caught:
        made(tiny_vit, **settings)
    assert_one_sentence(str(caught.value))


def test_a_quantized_model_is_not_quantized_again(w4a8: QuantizedCLIP) -> None:
    with pytest.raises(SettingError, match="already quantized") as caught:
        made(w4a8)
    assert_one_sentence(str(caught.value))


def test_images_of_another_size_are_refused(demo_vit: CLIP, tiny_vit: CLIP) -> None:
    with pytest.raises(DataError, match=r"\[N, 3, 64, 64\]") as caught:
        d4c.quantize(demo_vit, d4c.synthesize(tiny_vit, "noise", images=2), "W4A8")
    assert_one_sentence(str(caught.value))


def test_images_that_are_not_finite_are_refused(tiny_vit: CLIP) -> None:
    calibration = d4c.synthesize(tiny_vit, "noise", images=2)
    calibration.pixels[1, 0, 0, 0] = float("nan")
    with pytest.raises(DataError, match="NaN") as caught:
        d4c.quantize(tiny_vit, calibration, "W4A8")
    assert_one_sentence(str(caught.value))


@pytest.mark.parametrize("prompts", [[], ["a", 3]], ids=["none", "not text"])
def test_prompts_that_are_refused(tiny_vit: CLIP, prompts: list[Any]) -> None:
    with pytest.raises(DataError) as caught:
        made(tiny_vit, prompts=prompts)
    assert_one_sentence(str(caught.value))


def test_images_of_one_s_own_will_do(tiny_vit: CLIP) -> None:
    """A calibration set needs no method behind it."""
    given = d4c.synthesize(tiny_vit, "noise", images=3)
    own = replace(given, provenance={"mean": [0, 0, 0], "std": [1, 1, 1]})
    assert isinstance(own, CalibrationSet)
    assert d4c.quantize(tiny_vit, own, "W4A8", reconstruction="none", prompts=PROMPTS).layers()


@torch.no_grad()
def test_softening_is_what_it_says_on_images_of_one_s_own(tiny_vit: CLIP) -> None:
    """Images softened by hand and used as they are give the same model; the published track never softens."""
    images = d4c.synthesize(tiny_vit, "noise", images=4)
    by_hand = replace(images, pixels=softened(images.pixels))
    given: dict[str, Any] = {"reconstruction": "none", "prompts": PROMPTS}
    ours = d4c.quantize(tiny_vit, images, "W4A4", **given)
    assert model_hash(ours) == model_hash(d4c.quantize(tiny_vit, by_hand, "W4A4", soften=False, **given))
    assert model_hash(ours) != model_hash(d4c.quantize(tiny_vit, images, "W4A4", soften=False, **given))
    published = [d4c.quantize(tiny_vit, images, "W4A4", track="paper", soften=s, **given) for s in (True, False)]
    assert model_hash(published[0]) == model_hash(published[1])
    assert [m.recipe["soften"] for m in (ours, *published)] == [True, False, False]


def test_pairs_change_rows_of_8_bit_weights_alone_that_do_not_fit(tiny_vit: CLIP) -> None:
    full, fitting = made(tiny_vit, full_range=True), made(tiny_vit)
    for name, layer in fitting.layers().items():
        eight = layer.weight_args.num_bits == 8 and isinstance(layer, QuantizedLinear | QuantizedConv2d)
        assert layer.weight_args.pairs_fit == eight
        codes, free = layer.codes.flatten(1), full.layers()[name].codes.flatten(1)
        if eight:
            assert isinstance(layer, QuantizedLinear | QuantizedConv2d)
            assert layer.pairs_fit()
            fits = rows_that_fit(free, layer.unsafe_pairs())
            assert torch.equal((codes == free).all(1), fits)
            assert codes.abs().amax(1).float().mean() > 64
        else:
            assert torch.equal(codes, free)


@pytest.mark.parametrize("reconstruction", ["gptq", "layer"])
def test_pairs_fit_whatever_rounds(tiny_vit: CLIP, tiny_rn: CLIP, reconstruction: str) -> None:
    for clip in (tiny_vit, tiny_rn):
        rounded = made(clip, "W8A8", reconstruction=reconstruction, iterations=3)
        assert all(layer.pairs_fit() for layer in rounded.layers().values())


def test_the_full_range_is_for_the_deployable_track(tiny_vit: CLIP) -> None:
    with pytest.raises(SettingError, match="full_range is for integer kernels"):
        made(tiny_vit, full_range=True, track="paper")


def edited(clip: CLIP, changes: dict[str, tuple[Any, float]]) -> CLIP:
    """A copy with some elements of its parameters changed."""
    changed = copy.deepcopy(clip)
    for name, (where, value) in changes.items():
        changed.get_parameter(name).data[where] = value
    return changed


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["image.blocks.1.mlp.fc1.weight", "image.projection.weight", "text.norm_final.bias"])
def test_weights_that_are_not_finite_are_refused_by_name(tiny_vit: CLIP, name: str, value: float) -> None:
    with pytest.raises(CheckpointError, match=f"^{re.escape(name)} of 'tiny' contains NaN or infinite") as caught:
        made(edited(tiny_vit, {name: (0, value)}))
    assert_one_sentence(str(caught.value))
    other = "text" if name.startswith("image") else "image"
    assert made(edited(tiny_vit, {name: (0, value)}), towers=(other,)).layers()


@pytest.mark.parametrize("track", ["deployable", "paper"])
def test_activations_that_overflow_are_refused_by_layer(tiny_vit: CLIP, track: str) -> None:
    large = edited(tiny_vit, {"image.blocks.1.mlp.fc1.weight": (..., 3e38)})
    with pytest.raises(DataError, match=r"The input of image\.blocks\.1\.mlp\.fc2\S* contains NaN or inf") as caught:
        made(large, track=track)
    assert_one_sentence(str(caught.value))


DEAD: dict[str, dict[str, tuple[Any, float]]] = {
    "output channel": {"image.blocks.0.mlp.fc1.weight": (3, 0.0), "image.blocks.0.mlp.fc1.bias": (3, -40.0)},
    "layer": {"image.blocks.0.mlp.fc1.weight": (..., 0.0), "image.blocks.0.mlp.fc1.bias": (..., 0.0)},
    "norm channel": {"image.blocks.0.norm2.weight": (3, 0.0), "image.blocks.0.norm2.bias": (3, 0.0)},
    "norm": {"image.blocks.0.norm2.weight": (..., 0.0), "image.blocks.0.norm2.bias": (..., 0.0)},
}
LEARNED: dict[str, Any] = {"towers": ("image",), "iterations": 2, "batch_size": 2}


def assert_finite(quantized: QuantizedCLIP, pixels: torch.Tensor) -> None:
    assert bool(quantized.encode_image(pixels).isfinite().all())
    assert all(bool(t.isfinite().all()) for t in quantized.state_dict().values())


@pytest.mark.parametrize("dead", DEAD.values(), ids=DEAD)
@pytest.mark.parametrize("kind", ["block", "layer"])
def test_what_is_dead_stays_finite(tiny_vit: CLIP, dead: dict[str, tuple[Any, float]], kind: str) -> None:
    quantized = made(edited(tiny_vit, dead), "W4A4", reconstruction=kind, **LEARNED)
    assert_finite(quantized, torch.randn(4, 3, 16, 16))


def test_a_dead_channel_of_a_convolution_stays_finite(tiny_rn: CLIP) -> None:
    dead = edited(tiny_rn, {"image.blocks.1.conv2.weight": (2, 0.0), "image.blocks.2.conv1.weight": (..., 0.0)})
    assert_finite(made(dead, "W4A4", reconstruction="layer", **LEARNED), torch.randn(4, 3, 64, 64))


@pytest.mark.parametrize("color", [0.0, 1.3])
@pytest.mark.parametrize("model", ["tiny_vit", "tiny_rn"])
def test_images_of_one_color_give_finite_models(model: str, color: float, request: pytest.FixtureRequest) -> None:
    clip: CLIP = request.getfixturevalue(model)
    calibration = d4c.synthesize(clip, "noise", images=3)
    calibration.pixels.fill_(color)
    quantized = d4c.quantize(clip, calibration, "W4A4", **LEARNED)
    assert_finite(quantized, calibration.pixels)
    assert_finite(quantized, torch.randn_like(calibration.pixels))


def test_a_single_image_and_few_prompts_are_warned_of(tiny_vit: CLIP) -> None:
    one = d4c.synthesize(tiny_vit, "noise", images=1)
    with pytest.warns(UserWarning, match="ranges rest on") as warned:
        quantized = d4c.quantize(tiny_vit, one, "W4A4", prompts=["a cat"], iterations=2, batch_size=2)
    assert [str(warning.message) for warning in warned] == [
        "The image ranges rest on a single calibration image; give some dozens.",
        "The text ranges rest on few prompts (1); give at least 32.",
    ]
    assert_finite(quantized, one.pixels)


def test_enough_images_and_prompts_are_not_warned_of(tiny_vit: CLIP) -> None:
    two = d4c.synthesize(tiny_vit, "noise", images=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        d4c.quantize(tiny_vit, two, "W8A8", prompts=generic_prompts(32), reconstruction="none")
        d4c.quantize(tiny_vit, two, "W8A8", prompts=PROMPTS, reconstruction="none", towers=("image",))
