"""The whole synthesis on the embedded models."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import d4c
from d4c.calibration.prompts import prompt_features
from d4c.errors import DataError, SettingError
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.formats.identity import model_hash, model_record
from d4c.models.tower_config import ResNetConfig, TextConfig, ViTConfig
from d4c.synthesis import loop
from d4c.synthesis.config import SynthesisConfig, synthesis_config
from d4c.synthesis.loop import evaluate_step
from d4c.synthesis.methods.table import METHODS
from d4c.synthesis.setup import draw_targets, prepare
from d4c.synthesis.synthesize import synthesize
from d4c.synthesis.tower.working import working_copy
from d4c.synthesis.views import draw_step

TEXT = TextConfig(64, 1, 1, 32, context_length=12)
VIT = CLIPConfig(16, ViTConfig(16, 8, 64, 1, 1, 32), TEXT)
RN = CLIPConfig(16, ResNetConfig(32, 8, (1, 1, 1, 1), 4), TEXT)
NAMES = ["cat", "dog", "car", "owl", "tree"]
PAINTED = [name for name, method in METHODS.items() if method.losses is None]
OPTIMIZED = [name for name in METHODS if name not in PAINTED]
FITTING = [(tower, name) for tower, other in ((VIT, "bns"), (RN, "pse")) for name in OPTIMIZED if name != other]
"""Each method that optimizes with the towers that it is for."""


def name(value: object) -> str:
    return value if isinstance(value, str) else {VIT: "vit", RN: "resnet"}[value]  # type: ignore[index]


def fitting(methods: list[tuple[CLIPConfig, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("tiny", "method"), methods, indirect=["tiny"], ids=name)


@pytest.fixture(scope="module", params=[VIT, RN], ids=["vit", "resnet"])
def tiny(request: pytest.FixtureRequest) -> CLIP:
    torch.manual_seed(0)
    return CLIP(request.param, "tiny")


def test_prompts_are_recognized_after_a_few_steps(demo_vit: CLIP) -> None:
    """PGSI has no crop, so what was optimized is what is recognized; where it starts is not."""
    made = synthesize(demo_vit, "pgsi", images=8, iterations=25, group_size=8, lr=0.05)
    first, last = made.provenance["loss"][0][1], made.provenance["loss"][-1][1]
    assert last < first / 2
    assert made.provenance["recognized"] == {"image": 1}


def test_d4c_lowers_its_loss(demo: CLIP) -> None:
    made = synthesize(demo, "d4c", images=8, iterations=8, group_size=4, lr=0.05, prompts=NAMES)
    losses = [loss for _, loss in made.provenance["loss"]]
    assert sum(losses[-2:]) < 0.85 * sum(losses[:2])


@fitting(FITTING)
@pytest.mark.parametrize("optimizer", ["shared", "independent"])
def test_cutting_the_set_into_batches_changes_no_image(tiny: CLIP, method: str, optimizer: str) -> None:
    def make(batch: int | None) -> torch.Tensor:
        few = {"images": 7, "iterations": 3, "group_size": 2, "optimizer": optimizer}
        few |= {"statistics": "batch", "precision": "float32"}
        few |= {"prompts": NAMES} if SynthesisConfig(method=method).needs.prompts else {}
        return synthesize(tiny, method, batch=batch, **few).pixels  # type: ignore[arg-type]

    whole = make(None)
    for batch in (2, 4):
        # Not the largest difference: where a gradient is near zero, Adam magnifies its rounding.
        assert (make(batch) - whole).abs().mean() < 1e-5


@fitting(FITTING)
def test_gradients_of_all_groups_are_those_of_each_groups_mean_loss(tiny: CLIP, method: str) -> None:
    config = SynthesisConfig(method=method, images=5, group_size=2)
    clip = working_copy(tiny, None)
    setup, images, generator = prepare(clip, config, NAMES, seed=0)
    draws = draw_step(5, clip.image_size, config, generator)
    _, gradient = evaluate_step(clip, config, setup, images, draws)
    for begin in (0, 2, 4):
        rows = slice(begin, begin + 2)
        alone = SynthesisConfig(method=method, images=len(images[rows]), group_size=2)
        _, own = evaluate_step(clip, alone, setup[rows], images[rows], draws[rows])
        torch.testing.assert_close(gradient[rows], own, rtol=1e-3, atol=1e-6)


@fitting([*FITTING, *((tower, method) for tower in (VIT, RN) for method in PAINTED)])
def test_a_seed_gives_one_set_and_another_seed_another(tiny: CLIP, method: str) -> None:
    one, same, other = (synthesize(tiny, method, images=3, iterations=2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.pixels, same.pixels)
    assert one.prompts == same.prompts
    assert (one.pixels - other.pixels).abs().max() > 0.1


@fitting([*FITTING, *((tower, method) for tower in (VIT, RN) for method in PAINTED)])
def test_every_method_gives_a_set_that_can_be_saved_and_read(tiny: CLIP, method: str, tmp_path: Any) -> None:
    made = synthesize(tiny, method, images=3, iterations=2, seed=5)
    made.save(tmp_path / "set")
    again = d4c.CalibrationSet.load(tmp_path / "set")
    assert torch.equal(made.pixels, again.pixels)
    assert again.provenance == made.provenance
    assert made.pixels.shape == (3, 3, tiny.image_size, tiny.image_size)
    prompted = synthesis_config(method, "quick", {}).needs.prompts
    assert len(made.texts) == (180 if prompted else 0)
    assert again.provenance["model"] == model_record(tiny)
    assert again.provenance["config"]["method"] == again.provenance["method"] == method
    assert (again.boxes is None) == (method not in ("d4c", "pgsi+scg"))


def test_the_boxes_of_a_set_are_those_that_the_model_was_shown(demo_vit: CLIP) -> None:
    """What the set says of the foreground is so for its own boxes, cut out by hand."""
    made = synthesize(demo_vit, "pgsi+scg", images=12, iterations=6, lr=0.06, seed=2, precision="float32")
    assert made.boxes is not None
    size = demo_vit.image_size
    crops = [pixels[:, b:d, a:c] for pixels, (a, b, c, d) in zip(made.pixels, made.boxes.tolist(), strict=True)]
    shown = torch.cat([F.interpolate(crop[None], size=(size, size), mode="bilinear") for crop in crops])
    with torch.no_grad():
        features = F.normalize(demo_vit.encode_image(shown), dim=-1)
    nearest = (features @ prompt_features(demo_vit, made.texts).T).argmax(-1)
    share = float((nearest == made.targets).float().mean())
    assert share == made.provenance["recognized"]["foreground"]
    assert share > made.provenance["recognized"]["image"] + 0.5


def test_the_model_is_left_as_it_was(tiny: CLIP) -> None:
    tiny.train()
    tiny.image.requires_grad_(False)
    before = model_hash(tiny)
    synthesize(tiny, "d4c", images=3, iterations=2)
    assert model_hash(tiny) == before
    assert all(module.training for module in tiny.modules())
    assert not any(parameter.requires_grad for parameter in tiny.image.parameters())
    assert all(parameter.requires_grad for parameter in tiny.text.parameters())
    assert all(parameter.grad is None for parameter in tiny.parameters())
    tiny.requires_grad_(True)


def test_a_mode_of_training_does_not_matter(tiny: CLIP) -> None:
    trained = synthesize(tiny.train(), "d4c", images=3, iterations=2).pixels
    assert torch.equal(synthesize(tiny.eval(), "d4c", images=3, iterations=2).pixels, trained)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 2**31))
def test_even_targets_use_each_prompt_floor_or_ceil_times(n: int, prompts: int, seed: int) -> None:
    counts = draw_targets(n, prompts, "even", torch.Generator().manual_seed(seed)).bincount(minlength=prompts)
    assert set(counts.tolist()) <= {n // prompts, -(-n // prompts)}
    assert int(counts.sum()) == n


@pytest.mark.parametrize("method", ["noise", "pink"])
def test_optimization_starts_from_what_the_control_of_that_name_is(tiny: CLIP, method: str) -> None:
    """Same mean and spread: N(0, 1), or pictures brought to the model's normalized space."""
    config = SynthesisConfig(images=64, start=method)  # type: ignore[arg-type]
    start = prepare(tiny, config, NAMES, seed=0)[1]
    control = synthesize(tiny, method, images=64).pixels
    assert float(start.mean()) == pytest.approx(float(control.mean()), abs=0.15)
    assert float(start.std()) == pytest.approx(float(control.std()), abs=0.15)
    assert not torch.equal(start, control)


def test_random_targets_are_uniform() -> None:
    counts = draw_targets(20_000, 10, "random", torch.Generator().manual_seed(0)).bincount(minlength=10)
    assert counts.tolist() == pytest.approx([2000] * 10, rel=0.1)


def test_half_precision_stays_close_to_the_float32_images(tiny: CLIP) -> None:
    half, full = (
        synthesize(tiny, "pgsi", images=3, iterations=3, lr=0.01, precision=precision).pixels
        for precision in ("bf16", "float32")
    )
    start = synthesize(tiny, "pgsi", images=3, iterations=1, lr=1e-9).pixels
    assert 0 < (half - full).abs().mean() < 0.5 * (full - start).abs().mean()


def test_progress_knows_the_total_at_once_and_counts_up_to_it(tiny: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOOK_EVERY", 0.0)
    seen: list[tuple[int, int]] = []
    synthesize(tiny, "d4c", images=2, iterations=5, progress=lambda *call: seen.append(call))
    assert seen == [(done, 5) for done in range(6)]


@pytest.mark.parametrize("method", PAINTED)
def test_painting_reports_its_images(tiny: CLIP, method: str) -> None:
    seen: list[tuple[int, int]] = []
    synthesize(tiny, method, images=3, progress=lambda *call: seen.append(call))
    assert seen == [(0, 3), (3, 3)]


def test_a_model_that_gives_nan_is_refused(tiny: CLIP) -> None:
    broken = CLIP(VIT, "broken").eval()
    torch.nn.init.constant_(broken.image.projection.weight, torch.nan)  # type: ignore[union-attr,arg-type]
    with pytest.raises(SettingError, match="not a finite number"):
        synthesize(broken, "d4c", images=2, iterations=2)


@pytest.mark.parametrize("seed", [-1, 1.5, True, 2**63])
def test_a_bad_seed_is_refused(tiny: CLIP, seed: Any) -> None:
    with pytest.raises(SettingError, match="synthesis setting seed is"):
        synthesize(tiny, "noise", seed=seed)


def test_a_prompt_that_is_too_long_is_refused(tiny: CLIP) -> None:
    with pytest.raises(DataError, match="shorten it"):
        synthesize(tiny, "d4c", prompts=["cat " * 20])


@pytest.mark.parametrize("method", PAINTED)
def test_prompts_for_a_method_without_them_are_refused(tiny: CLIP, method: str) -> None:
    with pytest.raises(SettingError, match=f"There are prompts, but '{method}' makes images without any"):
        synthesize(tiny, method, prompts=["cat"])


def test_a_device_that_is_not_there_is_refused(tiny: CLIP) -> None:
    with pytest.raises(SettingError, match="use 'cpu'"):
        synthesize(tiny, "d4c", device="cuda:99")


def test_methods_are_documented() -> None:
    text = inspect.getdoc(synthesize) or ""
    assert all(f'"{method}"' in text for method in METHODS)
