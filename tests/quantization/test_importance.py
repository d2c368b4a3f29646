"""The weight of a token or channel is what a small error of it costs the embedding."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import d4c
from d4c.models.clip import CLIP
from d4c.quantization import importance, reconstruction
from d4c.quantization.importance import gradient_importance
from d4c.quantization.layers import ActivationQuantizer, QuantizedConv2d, QuantizedLinear
from d4c.quantization.optimization import ReconstructionConfig, Unit, _Loop
from d4c.quantization.placement import default_overrides, make_plan
from d4c.quantization.preparation import with_ranges
from d4c.quantization.reconstruction import UnitKind, reconstruct
from d4c.quantization.rounding import SoftRounding
from d4c.quantization.scheme import QuantArgs, Scheme
from d4c.quantization.stages import run_stage, stages


def models(clip: CLIP, tower: str, inputs: Tensor) -> tuple[CLIP, CLIP, Tensor]:
    """A float model, its quantized form, and the inputs as the tower takes them."""
    pixels = inputs if tower == "image" else torch.empty(0)
    plan = make_plan(clip, Scheme.parse("W4A4"), "deployable", default_overrides("deployable"), (tower,))
    quantized = with_ranges(clip, plan, "deployable", pixels, inputs, (tower,))
    return clip, quantized, inputs if tower == "image" else clip.text.crop(inputs)


@pytest.fixture(scope="module")
def vit(tiny_vit: CLIP) -> tuple[CLIP, CLIP, Tensor]:
    return models(tiny_vit, "image", d4c.synthesize(tiny_vit, "noise", images=6).pixels)


def embedding_error(quantized: CLIP, reference: CLIP, state: Tensor, after: int, inputs: Tensor) -> Tensor:
    """Sum over samples of 1 - cos, from the state behind stage `after` of the quantized model."""
    for stage in stages(quantized, "image")[after + 1 :]:
        state = stage.run(quantized, state, inputs)
    return (1 - F.cosine_similarity(state, reference.encode_image(inputs), dim=-1)).sum()


def test_it_is_the_squared_slope_of_the_embedding_error(vit: tuple[CLIP, CLIP, Tensor]) -> None:
    """Finite differences of every element of one state, without the steps of activations, which have no slope."""
    reference, quantized, pixels = copy.deepcopy(vit[0]).double(), copy.deepcopy(vit[1]).double(), vit[2][:2].double()
    for module in quantized.modules():
        if isinstance(module, ActivationQuantizer):
            module.enabled = False
    chain = stages(quantized, "image")
    state = run_stage(chain[1], quantized, run_stage(chain[0], quantized, pixels, pixels), pixels)
    squares = torch.zeros(state.shape[1], dtype=torch.float64)
    step = 1e-5
    with torch.no_grad():
        for place in torch.cartesian_prod(*map(torch.arange, state.shape)):
            sides = []
            for sign in (1, -1):
                moved = state.clone()
                moved[tuple(place)] += sign * step
                sides.append(float(embedding_error(quantized, reference, moved, 1, pixels)))
            squares[place[1]] += ((sides[0] - sides[1]) / (2 * step)) ** 2
    found = gradient_importance(quantized, reference, "image", pixels)["image.blocks.0"]
    assert torch.allclose(found, (squares / squares.mean())[:, None].expand(found.shape), rtol=1e-3)


@pytest.mark.parametrize("model", ["tiny_vit", "tiny_rn"])
@pytest.mark.parametrize("tower", ["image", "text"])
def test_every_output_has_weights_of_mean_one(model: str, tower: str, request: pytest.FixtureRequest) -> None:
    clip: CLIP = request.getfixturevalue(model)
    inputs = clip.tokenize(["a cat", "two old dogs", "the sea"])
    if tower == "image":
        inputs = d4c.synthesize(clip, "noise", images=3).pixels
    reference, quantized, inputs = models(clip, tower, inputs)
    found = gradient_importance(quantized, reference, tower, inputs)
    layers = {n: m for n, m in quantized.named_modules() if isinstance(m, QuantizedLinear | QuantizedConv2d)}
    assert found.keys() == layers.keys() | {stage.name for stage in stages(quantized, tower)}
    for name, layer in layers.items():
        channels = found[name].shape[0 if isinstance(layer, QuantizedConv2d) else -1]
        assert channels == layer.weight_shape[0]
    for weights in found.values():
        assert bool((weights >= 0).all())
        assert float(weights.mean()) == pytest.approx(1, rel=1e-5)


def test_batches_are_samples_one_by_one(vit: tuple[CLIP, CLIP, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    reference, quantized, pixels = vit
    whole = gradient_importance(quantized, reference, "image", pixels)
    monkeypatch.setattr(importance, "BATCH", 1)
    for name, weights in gradient_importance(quantized, reference, "image", pixels).items():
        assert torch.allclose(weights, whole[name], rtol=1e-3, atol=1e-5)


def test_tokens_that_nobody_reads_do_not_count(vit: tuple[CLIP, CLIP, Tensor]) -> None:
    """Behind the last block, only the class token is."""
    found = gradient_importance(vit[1], vit[0], "image", vit[2])["image.blocks.1"]
    assert torch.equal(found[1:], torch.zeros_like(found[1:]))
    assert torch.allclose(found[0], torch.full_like(found[0], len(found)))


def test_a_text_channel_that_nobody_reads_does_not_count(tiny_vit: CLIP) -> None:
    reference, quantized, tokens = models(tiny_vit, "text", tiny_vit.tokenize(["a cat", "two old dogs"]))
    reader = quantized.get_submodule("text.blocks.1.mlp.fc2")
    assert isinstance(reader, QuantizedLinear)
    reader.weight[:, 5] = 0
    found = gradient_importance(quantized, reference, "text", tokens)["text.blocks.1.mlp.fc1"]
    assert float(found[5]) == 0
    assert float(found.mean()) == pytest.approx(1, rel=1e-5)


def test_where_nothing_reaches_the_embedding_all_channels_count_alike(vit: tuple[CLIP, CLIP, Tensor]) -> None:
    reference, quantized, pixels = vit[0], copy.deepcopy(vit[1]), vit[2]
    last = quantized.get_submodule("image.projection")
    assert isinstance(last, QuantizedLinear)
    last.weight.zero_()
    found = gradient_importance(quantized, reference, "image", pixels)["image.blocks.0"]
    assert torch.equal(found, torch.ones_like(found))


def test_the_models_are_left_as_they_were(vit: tuple[CLIP, CLIP, Tensor]) -> None:
    reference, quantized, pixels = vit
    with torch.no_grad():  # gradients are needed inside, whatever the caller has set
        gradient_importance(quantized, reference, "image", pixels)
    assert all(p.grad is None for clip in (reference, quantized) for p in clip.parameters())
    assert not any(module._forward_hooks for module in quantized.modules())


@pytest.mark.parametrize("kind", ["block", "layer"])
@pytest.mark.parametrize(("model", "tower"), [("tiny_vit", "image"), ("tiny_rn", "image"), ("tiny_vit", "text")])
def test_every_unit_is_learned_with_the_weights_of_its_outputs(
    model: str, tower: str, kind: UnitKind, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip: CLIP = request.getfixturevalue(model)
    inputs = clip.tokenize(["a cat", "two old dogs", "the sea"])
    if tower == "image":
        inputs = d4c.synthesize(clip, "noise", images=3).pixels
    reference, quantized, inputs = models(clip, tower, inputs)
    expected = gradient_importance(quantized, reference, tower, inputs)
    seen: list[Tensor] = []

    def learn(unit: Unit, *_: object) -> None:
        assert unit.importance is not None
        assert torch.broadcast_shapes(unit.importance.shape, unit.targets.shape) == unit.targets.shape
        seen.append(unit.importance)

    monkeypatch.setattr(reconstruction, "optimize", learn)
    config = ReconstructionConfig(importance="gradient")
    reconstruct(quantized, reference, tower, inputs, lambda _: kind, config)
    last = f"{tower}.blocks.1.mlp.fc2" if model == "tiny_vit" else "image.blocks.3.conv3"
    wanted = expected[last if kind == "layer" else ".".join(last.split(".")[:3])]
    assert any(weights.shape == wanted.shape and torch.equal(weights, wanted) for weights in seen)


@pytest.mark.parametrize("shape", [(3, 1), (6,)], ids=["tokens", "channels"])
def test_the_loss_weighs_squared_errors(shape: tuple[int, ...]) -> None:
    """Twice the weight is an error that is larger by the root of two."""
    layer = QuantizedLinear(
        torch.nn.Linear(4, 6), QuantArgs(4, True, "channel"), ActivationQuantizer(QuantArgs(8, False, "tensor"))
    )
    x, target, weights = torch.rand(5, 3, 4), torch.randn(5, 3, 6), torch.rand(shape) + 0.5

    def loss(forward: Callable[[Tensor], Tensor], targets: Tensor, importance: Tensor | None) -> Tensor:
        unit = Unit([layer], [layer.input_quantizer], forward, x, targets, importance=importance)
        roundings = [SoftRounding(layer, layer.source_weight())]
        loop = _Loop(unit, roundings, ReconstructionConfig(iterations=4), 1e-3)
        return loop._squared_error(*loop._samples(slice(None))).detach()

    root = weights.sqrt()
    scaled = loss(lambda x: layer(x) * root, target * root, None)
    assert torch.allclose(loss(layer, target, weights), scaled, rtol=1e-5)
