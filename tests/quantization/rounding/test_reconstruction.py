"""Reconstruction lowers the error of a unit, and minimizes the loss that it says."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import d4c
from d4c.errors import SettingError
from d4c.models.clip import CLIP
from d4c.models.formats.identity import model_hash
from d4c.progress import WHOLE, Progress, silent
from d4c.quantization.calibrate import calibrate, prepare
from d4c.quantization.formats.scheme import Scheme, Track
from d4c.quantization.layers.quantized_weight import QuantizedLayer
from d4c.quantization.placement import convert, default_overrides, make_plan
from d4c.quantization.quantize import quantize
from d4c.quantization.rounding import optimization, reconstruction
from d4c.quantization.rounding.adaround import SoftRounding
from d4c.quantization.rounding.config import PAPER, ReconstructionConfig
from d4c.quantization.rounding.optimization import (
    TEMPERATURE,
    Unit,
    optimize,
    samples,
    squared_error,
)
from d4c.quantization.rounding.reconstruction import UnitKind, reconstruct, trainable_layers
from d4c.quantization.stages import Stage, run_stage, stages

SHORT = ReconstructionConfig(iterations=40, batch_size=8)


def calibrated(clip: CLIP, scheme: str, tower: str, inputs: Tensor, track: Track = "deployable") -> tuple[CLIP, CLIP]:
    """A folded float model and its quantized form with ranges."""
    reference = copy.deepcopy(clip)
    reference.text.trim = track == "deployable"
    pixels = inputs if tower == "image" else torch.empty(0)
    plan = make_plan(reference, Scheme.parse(scheme), track, default_overrides(reference, track), (tower,))
    if track == "deployable":
        prepare(reference, pixels, inputs, (tower,), plan)
    quantized = copy.deepcopy(reference)
    convert(quantized, plan, track)
    calibrate(quantized, pixels, inputs, (tower,), deployable=track == "deployable")
    return reference, quantized


@pytest.fixture(scope="module")
def pixels(demo_vit: CLIP) -> Tensor:
    return d4c.synthesize(demo_vit, "leaves", images=12).pixels


def codes(clip: CLIP) -> dict[str, Tensor]:
    return {name: m.codes.clone() for name, m in clip.named_modules() if isinstance(m, QuantizedLayer)}


@pytest.mark.parametrize("annealing", ["temperature", "published"])
def test_a_block_is_nearer_to_float_than_with_rounding_to_nearest(
    demo_vit: CLIP, pixels: Tensor, annealing: str
) -> None:
    clip = copy.deepcopy(demo_vit)
    clip.image.blocks = clip.image.blocks[:1]
    reference, quantized = calibrated(clip, "W4A4", "image", pixels)
    stage = stages(quantized, "image")[1]
    state = run_stage(stages(quantized, "image")[0], quantized, pixels, pixels)
    target = run_stage(stage, reference, run_stage(stages(reference, "image")[0], reference, pixels, pixels), pixels)
    before = (run_stage(stage, quantized, state, pixels) - target).square().mean()
    names = trainable_layers(quantized, stage)
    config = SHORT if annealing == "temperature" else replace(PAPER, iterations=40, batch_size=8, rounding_lr=1e-2)
    unit = reconstruction._block_unit(quantized, stage, names, state, target, pixels)
    optimize(unit, config, 1e-3 if annealing == "temperature" else 4e-5, seed=0)
    after = (run_stage(stage, quantized, state, pixels) - target).square().mean()
    assert float(after) < 0.95 * float(before)
    assert all(layer.soft_weight is None for layer in unit.layers)
    assert all(quantizer.drop == 0 and not quantizer.scale.requires_grad for quantizer in unit.quantizers)


def tiny_unit(clip: CLIP, tower: str = "image", count: int = 6, block: int = 0) -> tuple[Unit, list[SoftRounding]]:
    """A block of a narrow model, its rounding already soft."""
    inputs = (
        d4c.synthesize(clip, "noise", images=count).pixels
        if tower == "image"
        else clip.tokenize([f"a {'very ' * i}small cat" for i in range(count)])
    )
    reference, quantized = calibrated(clip, "W3A4", tower, inputs)
    inputs = reference.text.crop(inputs) if tower == "text" else inputs
    *before, stage = stages(quantized, tower)[: block + 2]
    state = target = inputs
    for earlier in before:
        state = run_stage(earlier, quantized, state, inputs)
        target = run_stage(earlier, reference, target, inputs)
    target = run_stage(stage, reference, target, inputs)
    unit = reconstruction._block_unit(quantized, stage, trainable_layers(quantized, stage), state, target, inputs)
    roundings = [SoftRounding(layer, layer.source_weight()) for layer in unit.layers]
    for layer, rounding in zip(unit.layers, roundings, strict=True):
        layer.soft_weight = rounding
    return unit, roundings


def test_every_range_of_a_bottleneck_is_learned(tiny_rn: CLIP) -> None:
    """Those of the sum and of the pools too, and what two layers share once."""
    unit, _ = tiny_unit(tiny_rn, block=1)
    before = [float(quantizer.scale) for quantizer in unit.quantizers]
    for layer in unit.layers:
        layer.soft_weight = None
    optimize(unit, replace(PAPER, iterations=4), 1e-2, seed=0)
    assert all(float(q.scale) != value for q, value in zip(unit.quantizers, before, strict=True))
    # conv1 with the shortcut's pool, conv2, the pool after it, conv3, the shortcut's convolution, two of the sum
    assert len(unit.quantizers) == len(set(unit.quantizers)) == 7


def error_of(unit: Unit, index: Tensor, config: ReconstructionConfig) -> float:
    return float(squared_error(unit, config, *samples(unit, index)).detach())


def test_the_published_loss_is_its_formula(tiny_vit: CLIP) -> None:
    """Squared error summed over dimension 1 and averaged over the rest."""
    unit, _ = tiny_unit(tiny_vit)
    index = torch.tensor([4, 0, 4])
    error = (unit.forward(unit.inputs[index]) - unit.targets[index]).detach().double()
    images, positions, channels = error.shape
    total = sum(float(error[n, l, c]) ** 2 for n in range(images) for l in range(positions) for c in range(channels))
    assert error_of(unit, index, PAPER) == pytest.approx(total / (images * channels), rel=1e-5)


def test_positions_after_end_of_text_do_not_count(tiny_vit: CLIP) -> None:
    unit, _ = tiny_unit(tiny_vit, "text")
    assert unit.live is not None
    index = torch.tensor([0, 3])
    before = error_of(unit, index, SHORT)
    dead = ~unit.live
    assert int(dead.sum()) == sum(range(6))
    unit.targets[dead] += 100
    assert error_of(unit, index, SHORT) == before
    unit.targets[0, 0] += 100
    assert error_of(unit, index, SHORT) > before


def test_the_schedule_of_beta_warms_up_and_falls_linearly(tiny_vit: CLIP) -> None:
    unit, roundings = tiny_unit(tiny_vit)
    loop = optimization._Loop(unit, roundings, replace(PAPER, iterations=1000), 1)
    beta, weight, cosine, temperature = loop.schedule.unbind(1)
    assert bool((weight[:200] == 0).all())
    assert torch.allclose(weight[200:], torch.tensor(0.01))
    assert float(beta[200]) == pytest.approx(20, abs=0.05)
    assert float(beta[600]) == pytest.approx(11, abs=0.05)
    assert float(beta[999]) == pytest.approx(2, abs=0.05)
    assert float(cosine[0]) == 1
    assert float(cosine[500]) == pytest.approx(0.5)
    assert bool((temperature == 1).all())


def test_the_temperature_warms_up_and_grows_by_equal_factors(tiny_vit: CLIP) -> None:
    unit, roundings = tiny_unit(tiny_vit)
    config = ReconstructionConfig(iterations=1000)
    temperature = optimization._Loop(unit, roundings, config, 1).schedule[:, 3]
    assert bool((temperature[:201] == 1).all())
    factors = temperature[201:960] / temperature[200:959]
    assert torch.allclose(factors, factors[:1])
    assert torch.allclose(temperature[960:], torch.tensor(TEMPERATURE))


def test_at_the_end_the_weights_are_decided(tiny_vit: CLIP) -> None:
    """What was learned softly is what the codes give, but for a weight in a hundred."""
    unit, roundings = tiny_unit(tiny_vit)
    optimization._Loop(unit, roundings, replace(SHORT, iterations=60, batch_size=4), 1e-3).run(silent)
    for rounding in roundings:
        soft = rounding.offset()
        assert float(((soft > 0.01) & (soft < 0.99)).float().mean()) < 0.01


def test_a_unit_that_learning_makes_worse_stays_as_it_was(tiny_vit: CLIP) -> None:
    unit, _ = tiny_unit(tiny_vit)
    for layer in unit.layers:
        layer.soft_weight = None
    before = [layer.codes.clone() for layer in unit.layers], [float(q.scale) for q in unit.quantizers]
    optimize(unit, replace(SHORT, iterations=3, rounding_lr=100.0), 10.0, seed=0)  # nothing good comes of such steps
    assert all(torch.equal(layer.codes, old) for layer, old in zip(unit.layers, before[0], strict=True))
    assert [float(q.scale) for q in unit.quantizers] == before[1]


def test_the_paper_settings_are_the_published_ones() -> None:
    assert (PAPER.iterations, PAPER.batch_size, PAPER.drop, PAPER.warmup) == (20000, 32, 0.0, 0.2)
    assert (PAPER.rounding_lr, PAPER.image_scale_lr, PAPER.text_scale_lr) == (1e-3, 4e-5, 4e-6)
    assert (PAPER.rounding_weight, PAPER.beta_start, PAPER.beta_end) == (0.01, 20.0, 2.0)
    assert (PAPER.annealing, PAPER.importance, PAPER.closed_form_start) == ("published", "none", False)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_the_same_seed_gives_the_same_codes(tiny_vit: CLIP, tower: str) -> None:
    inputs = d4c.synthesize(tiny_vit, "noise", images=6).pixels
    if tower == "text":
        inputs = tiny_vit.tokenize(["a cat", "two old dogs", "the sea at night"])
    reference, start = calibrated(tiny_vit, "W3A4", tower, inputs)
    learned_by_run: list[dict[str, Tensor]] = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(learned_by_run))  # what else is random must not matter
        quantized = copy.deepcopy(start)
        reconstruct(quantized, reference, tower, inputs, lambda _: "block", replace(SHORT, iterations=10), seed)
        learned_by_run.append(
            {**codes(quantized), **{k: v for k, v in quantized.state_dict().items() if k.endswith("scale")}}
        )
    assert all(torch.equal(learned_by_run[0][name], learned_by_run[1][name]) for name in learned_by_run[0])
    assert any(not torch.equal(learned_by_run[0][name], learned_by_run[2][name]) for name in learned_by_run[0])


def out_of_memory(buried: bool) -> None:
    """What PyTorch raises; while a graph is captured, ending the capture fails as well and hides it."""
    try:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
    except RuntimeError:
        if buried:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")  # noqa: B904
        raise


@pytest.mark.parametrize(("kind", "buried"), [("block", False), ("layer", True)], ids=["plain", "in a capture"])
def test_too_little_memory_moves_the_samples_to_the_host_and_changes_nothing(
    tiny_vit: CLIP, kind: UnitKind, buried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stage is done again from where it began, though layers of it were solved and learned already."""
    inputs = d4c.synthesize(tiny_vit, "noise", images=4).pixels
    reference, quantized = calibrated(tiny_vit, "W3A4", "image", inputs)
    config = replace(SHORT, iterations=2, batch_size=2)
    plain, crowded = copy.deepcopy(quantized), copy.deepcopy(quantized)
    reconstruct(plain, reference, "image", inputs, lambda _: kind, config)
    on_host: list[bool] = []
    pass_stage = reconstruction._Walk._pass_stage

    def watch(self: reconstruction._Walk, stage: Stage, kind: UnitKind, progress: Progress) -> None:
        on_host.append(self.on_host)
        pass_stage(self, stage, kind, progress)

    def learn(unit: Unit, config: ReconstructionConfig, scale_lr: float, seed: int, progress: Progress) -> None:
        optimize(unit, config, scale_lr, seed, progress)
        if on_host == [False] * 3:
            out_of_memory(buried)

    monkeypatch.setattr(reconstruction._Walk, "_pass_stage", watch)
    monkeypatch.setattr(reconstruction, "optimize", learn)
    reconstruct(crowded, reference, "image", inputs, lambda _: kind, config)
    assert on_host == [False, False, False, True, True]
    assert model_hash(crowded) == model_hash(plain)


def test_too_little_memory_even_then_is_one_clear_error(tiny_vit: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = d4c.synthesize(tiny_vit, "noise", images=2).pixels
    reference, quantized = calibrated(tiny_vit, "W4A4", "image", inputs)
    monkeypatch.setattr(reconstruction, "optimize", lambda *_: out_of_memory(False))
    with pytest.raises(SettingError, match=r"Rebuilding image\.embed takes more GPU memory than is free.*\.$"):
        reconstruct(quantized, reference, "image", inputs, lambda _: "block", SHORT)


def test_an_error_that_is_not_about_memory_is_passed_on(tiny_vit: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = d4c.synthesize(tiny_vit, "noise", images=2).pixels
    reference, quantized = calibrated(tiny_vit, "W4A4", "image", inputs)

    def fail(*_: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(reconstruction, "optimize", fail)
    with pytest.raises(RuntimeError, match="something else"):
        reconstruct(quantized, reference, "image", inputs, lambda _: "block", SHORT)


def test_reconstruction_leaves_the_other_tower_and_the_caller_s_random_state(tiny_vit: CLIP) -> None:
    inputs = d4c.synthesize(tiny_vit, "noise", images=4).pixels
    reference, quantized = calibrated(tiny_vit, "W4A4", "image", inputs)
    before = {name: value.clone() for name, value in quantized.text.state_dict().items()}
    state = torch.get_rng_state()
    reconstruct(quantized, reference, "image", inputs, lambda _: "layer", replace(SHORT, iterations=2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in quantized.text.state_dict().items())


@pytest.mark.parametrize("kind", ["block", "layer"])
def test_every_layer_is_rebuilt_once(tiny_rn: CLIP, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = d4c.synthesize(tiny_rn, "noise", images=2).pixels
    reference, quantized = calibrated(tiny_rn, "W4A4", "image", inputs)
    units: list[list[QuantizedLayer]] = []
    monkeypatch.setattr(reconstruction, "optimize", lambda unit, *_: units.append(unit.layers))
    done: list[tuple[int, int]] = []
    reconstruct(quantized, reference, "image", inputs, lambda _: kind, SHORT, progress=lambda *call: done.append(call))  # type: ignore[arg-type,return-value]
    rebuilt = [layer for unit in units for layer in unit]
    assert len(rebuilt) == len(set(rebuilt))
    assert set(rebuilt) == {m for m in quantized.image.modules() if isinstance(m, QuantizedLayer)}
    assert done == sorted(done)
    assert {(round(WHOLE * i / 6), WHOLE) for i in range(1, 7)} <= set(done)


@pytest.mark.parametrize(("model", "image_units"), [("tiny_vit", {1}), ("tiny_rn", {1, 3, 4})])
def test_published_units_are_bottlenecks_and_transformer_layers(
    model: str, image_units: set[int], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a ResNet, three convolutions of a bottleneck together (four with a shortcut); of a transformer, one layer."""
    clip: CLIP = request.getfixturevalue(model)
    sizes: list[int] = []

    def count(unit: Unit, *_: object) -> None:
        sizes.append(len(unit.layers))

    monkeypatch.setattr(reconstruction, "optimize", count)
    calibration = d4c.synthesize(clip, "noise", images=2)
    quantize(clip, calibration, "W4A4", track="paper", towers=("image",), prompts=["a cat"])
    assert set(sizes) <= image_units
    assert 1 in sizes
    assert (3 in sizes) == (model == "tiny_rn")
