"""The weight of a token is what a small error of it costs the embedding, or the zero-shot distribution."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import d4c
from d4c.calibration.prompts import generic_prompts
from d4c.models.clip import CLIP
from d4c.progress import Progress
from d4c.quantization.formats.scheme import QuantArgs, Scheme
from d4c.quantization.layers.activation_quantizer import ActivationQuantizer
from d4c.quantization.layers.quantized_product import QuantizedLinear
from d4c.quantization.placement import default_overrides, make_plan
from d4c.quantization.preparation import with_ranges
from d4c.quantization.rounding import importance, reconstruction
from d4c.quantization.rounding.config import Importance, ReconstructionConfig
from d4c.quantization.rounding.importance import Error, embedding_error, token_importance, zeroshot_error
from d4c.quantization.rounding.optimization import Unit, samples, squared_error
from d4c.quantization.rounding.reconstruction import UnitKind, reconstruct
from d4c.quantization.stages import run_stage, stages


def models(clip: CLIP) -> tuple[CLIP, CLIP, Tensor]:
    """A float model, its quantized form, and pixels."""
    pixels = d4c.synthesize(clip, "noise", images=6).pixels
    plan = make_plan(clip, Scheme.parse("W4A4"), "deployable", default_overrides(clip, "deployable"))
    tokens = clip.tokenize(["a cat", "two old dogs"])
    quantized, _ = with_ranges(clip, plan, "deployable", pixels, tokens, ("image", "text"))
    return clip, quantized, pixels


@pytest.fixture(scope="module")
def vit(tiny_vit: CLIP) -> tuple[CLIP, CLIP, Tensor]:
    return models(tiny_vit)


def one_minus_cosine(reference: CLIP, actual: Tensor, expected: Tensor) -> Tensor:
    return 1 - (F.normalize(actual, dim=-1) * F.normalize(expected, dim=-1)).sum(-1)


def prompt_divergence(reference: CLIP, actual: Tensor, expected: Tensor) -> Tensor:
    """KL of the zero-shot distributions over one prompt of each noun, all positions of each prompt computed."""
    whole = copy.copy(reference)
    whole.text = copy.copy(reference.text)
    whole.text.trim = False
    texts = F.normalize(whole.encode_text(reference.tokenize(generic_prompts(180))), dim=-1)
    p, q = ((reference.logit_scale * F.normalize(x, dim=-1) @ texts.T).softmax(-1) for x in (expected, actual))
    return (p * (p.log() - q.log())).sum(-1)


def without_steps(clip: CLIP) -> CLIP:
    """A copy whose activations are not rounded."""
    clip = copy.deepcopy(clip)
    for module in clip.modules():
        if isinstance(module, ActivationQuantizer):
            module.enabled = False
    return clip


ERRORS: dict[Importance, tuple[Callable[[CLIP], Error], Callable[..., Tensor]]] = {
    "embedding": (lambda _: embedding_error, one_minus_cosine),
    "zeroshot": (zeroshot_error, prompt_divergence),
}


@pytest.mark.parametrize(("make", "written_out"), ERRORS.values(), ids=ERRORS)
def test_it_is_the_squared_slope_of_the_error(
    make: Callable[[CLIP], Error], written_out: Callable[[CLIP, Tensor, Tensor], Tensor], vit: tuple[CLIP, CLIP, Tensor]
) -> None:
    """Finite differences of every element of one state, without the steps of activations, which have no slope."""
    reference, quantized, pixels = copy.deepcopy(vit[0]).double(), without_steps(vit[1]).double(), vit[2][:2].double()
    chain = stages(quantized, "image")
    state = run_stage(chain[1], quantized, run_stage(chain[0], quantized, pixels, pixels), pixels)
    places = torch.cartesian_prod(*map(torch.arange, state.shape))
    step = 1e-5
    with torch.no_grad():
        moved = state.repeat(2, len(places), 1, 1, 1)
        for sign, copies in zip((1, -1), moved, strict=True):
            copies[torch.arange(len(places)), *places.T] += sign * step
        moved = moved.flatten(0, 2)
        for stage in chain[2:]:
            moved = stage.run(quantized, moved, pixels)
        expected = reference.encode_image(pixels)
        up, down = written_out(reference, moved, expected.repeat(2 * len(places), 1)).view(2, len(places), -1).sum(-1)
    squares = torch.zeros(state.shape[1], dtype=torch.float64)
    squares.index_add_(0, places[:, 1], ((up - down) / (2 * step)).square())
    weights = token_importance(quantized, reference, pixels, make(reference))["image.blocks.0"]
    assert torch.allclose(weights, (squares / squares.mean())[:, None].expand(weights.shape), rtol=1e-3)


def test_every_output_with_tokens_has_weights_of_mean_one(vit: tuple[CLIP, CLIP, Tensor]) -> None:
    reference, quantized, pixels = vit
    by_output = token_importance(quantized, reference, pixels, embedding_error)
    blocks = {n: m for n, m in quantized.image.blocks.named_modules() if isinstance(m, QuantizedLinear)}
    states = {stage.name for stage in stages(quantized, "image")[:-1]}  # the last one is the embedding
    assert by_output.keys() == {f"image.blocks.{name}" for name in blocks} | states
    for name, layer in blocks.items():
        assert by_output[f"image.blocks.{name}"].shape == (5, layer.weight_shape[0])
    for weights in by_output.values():
        assert bool((weights >= 0).all())
        assert float(weights.mean()) == pytest.approx(1, rel=1e-5)


def test_batches_are_samples_one_by_one(vit: tuple[CLIP, CLIP, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to what matrix products of another size round differently, which would move activations by a code."""
    reference, quantized, pixels = vit[0], without_steps(vit[1]), vit[2]
    whole = token_importance(quantized, reference, pixels, embedding_error)
    monkeypatch.setattr(importance, "BATCH", 1)
    for name, weights in token_importance(quantized, reference, pixels, embedding_error).items():
        assert torch.allclose(weights, whole[name], rtol=1e-3, atol=1e-5)


def test_tokens_that_nobody_reads_do_not_count(vit: tuple[CLIP, CLIP, Tensor]) -> None:
    """After the last block only the class token is read."""
    weights = token_importance(vit[1], vit[0], vit[2], embedding_error)["image.blocks.1"]
    assert torch.equal(weights[1:], torch.zeros_like(weights[1:]))
    assert torch.allclose(weights[0], torch.full_like(weights[0], len(weights)))


def test_where_nothing_reaches_the_embedding_all_channels_count_alike(vit: tuple[CLIP, CLIP, Tensor]) -> None:
    reference, quantized, pixels = vit[0], copy.deepcopy(vit[1]), vit[2]
    last = quantized.get_submodule("image.projection")
    assert isinstance(last, QuantizedLinear)
    last.weight.zero_()
    weights = token_importance(quantized, reference, pixels, embedding_error)["image.blocks.0"]
    assert torch.equal(weights, torch.ones_like(weights))


def test_the_models_are_left_as_they_were(vit: tuple[CLIP, CLIP, Tensor]) -> None:
    reference, quantized, pixels = vit
    with torch.no_grad():  # gradients are needed inside, whatever the caller has set
        token_importance(quantized, reference, pixels, embedding_error)
    assert all(p.grad is None for clip in (reference, quantized) for p in clip.parameters())
    assert not any(module._forward_hooks for module in quantized.modules())


Learned = list[tuple[Unit, list[str]]]


@pytest.fixture
def learned(monkeypatch: pytest.MonkeyPatch) -> Learned:
    """The units that were learned, with the names of their outputs."""
    units: Learned = []
    monkeypatch.setattr(reconstruction, "optimize", lambda *_: None)
    original = reconstruction._Walk._optimize

    def learn(self: reconstruction._Walk, unit: Unit, outputs: list[str], progress: Progress) -> None:
        original(self, unit, outputs, progress)
        units.append((unit, outputs))

    monkeypatch.setattr(reconstruction._Walk, "_optimize", learn)
    return units


@pytest.mark.parametrize(("kind", "choice"), [("block", "embedding"), ("layer", "embedding"), ("block", "zeroshot")])
def test_units_with_tokens_are_learned_with_the_weights_of_their_outputs(
    vit: tuple[CLIP, CLIP, Tensor], kind: UnitKind, choice: Importance, learned: Learned
) -> None:
    reference, quantized, pixels = vit[0], copy.deepcopy(vit[1]), vit[2]
    by_output = token_importance(quantized, reference, pixels, ERRORS[choice][0](reference))
    reconstruct(quantized, reference, "image", pixels, lambda _: kind, ReconstructionConfig(importance=choice))
    weighted = [(unit, outputs) for unit, outputs in learned if unit.targets.ndim == 3]
    assert len(weighted) == {"block": 3, "layer": 8}[kind]
    for unit, outputs in weighted:
        assert unit.importance is not None
        assert unit.importance.shape == unit.targets.shape[1:]
        assert torch.equal(unit.importance, torch.cat([by_output[name] for name in outputs], 1))
    assert all(unit.importance is None for unit, _ in learned if unit.targets.ndim != 3)


@pytest.mark.parametrize(("model", "tower"), [("tiny_rn", "image"), ("tiny_vit", "text")])
def test_other_towers_are_learned_without(
    model: str, tower: str, request: pytest.FixtureRequest, learned: Learned
) -> None:
    reference, quantized, inputs = models(request.getfixturevalue(model))
    if tower == "text":
        inputs = reference.tokenize(["a cat", "two old dogs"])
    reconstruct(quantized, reference, tower, inputs, lambda _: "block", ReconstructionConfig(importance="zeroshot"))
    assert learned
    assert all(unit.importance is None for unit, _ in learned)


def test_the_loss_weighs_squared_errors() -> None:
    """A weight is an error that is larger by its root."""
    layer = QuantizedLinear(
        torch.nn.Linear(4, 6), QuantArgs(4, True, "channel"), ActivationQuantizer(QuantArgs(8, False, "tensor"))
    )
    x, target, weights = torch.rand(5, 3, 4), torch.randn(5, 3, 6), torch.rand(3, 6) + 0.5

    def loss(forward: Callable[[Tensor], Tensor], targets: Tensor, importance: Tensor | None) -> Tensor:
        unit = Unit([layer], [layer.input_quantizer], forward, x, targets, importance=importance)
        return squared_error(unit, ReconstructionConfig(), *samples(unit, torch.arange(5))).detach()

    root = weights.sqrt()
    scaled = loss(lambda x: layer(x) * root, target * root, None)
    assert torch.allclose(loss(layer, target, weights), scaled, rtol=1e-5)
