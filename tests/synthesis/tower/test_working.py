"""The working copy computes what the model computes, by other means."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from d4c.errors import SettingError
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.tower_config import TextConfig, ViTConfig
from d4c.synthesis.config import Precision, SynthesisConfig
from d4c.synthesis.tower.encode import encode
from d4c.synthesis.tower.working import reproducible, resolve_precision, speed_up, working_copy


def sped_up(clip: CLIP, method: str = "d4c", precision: Precision = "float32") -> CLIP:
    model = working_copy(clip, None)
    speed_up(model, SynthesisConfig(method=method, precision=precision))
    return model


@pytest.mark.parametrize("method", ["d4c", "bns", "pse"])
def test_embeddings_and_gradients_are_those_of_the_model(demo: CLIP, method: str) -> None:
    pixels = torch.randn(3, 3, demo.image_size, demo.image_size, generator=torch.Generator().manual_seed(0))
    results = []
    for model in (working_copy(demo, None), sped_up(demo, method)):
        given = pixels.clone().requires_grad_()
        features = encode(model, given)
        results.append((features.detach(), torch.autograd.grad(features.square().sum(), given)[0]))
    for ours, plain in zip(results[1], results[0], strict=True):
        assert float((ours - plain).norm() / plain.norm()) < 1e-5


def test_gelu_is_left_as_it_is() -> None:
    torch.manual_seed(0)
    vit = ViTConfig(32, 8, 64, 2, 1, 128, "gelu")
    clip = CLIP(CLIPConfig(16, vit, TextConfig(64, 1, 1, 32, context_length=12)))
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(encode(sped_up(clip), pixels), clip.encode_image(pixels), rtol=1e-5, atol=1e-5)


def test_bf16_embeddings_point_where_those_of_the_model_do(demo: CLIP) -> None:
    pixels = torch.randn(4, 3, demo.image_size, demo.image_size, generator=torch.Generator().manual_seed(0))
    half = encode(sped_up(demo, precision="bf16"), pixels)
    assert half.dtype == torch.float32
    assert F.cosine_similarity(half, encode(sped_up(demo), pixels)).min() > 0.998


@pytest.mark.parametrize(("name", "least"), [("demo_vit", 0.998), ("demo_rn", 0.95)])
def test_in_bf16_images_are_pushed_where_float32_pushes_them(
    name: str, least: float, request: pytest.FixtureRequest
) -> None:
    clip = request.getfixturevalue(name)
    pixels = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    pushes = []
    for precision in ("float32", "bf16"):
        features = encode(sped_up(clip, precision=precision), pixels)
        loss = F.cosine_similarity(features, torch.ones_like(features)).sum()
        pushes.append(torch.autograd.grad(loss, pixels)[0].flatten(1))
    in_float32, in_bf16 = pushes
    assert F.cosine_similarity(in_float32, in_bf16).min() > least


def test_batchnorm_keeps_its_digits_in_bf16(demo_rn: CLIP) -> None:
    model = sped_up(demo_rn, "bns", "bf16")  # a baseline: where BatchNorm is not folded
    norm, original = (clip.image.stem.bn1 for clip in (model, demo_rn))  # type: ignore[union-attr]
    assert torch.equal(norm.running_var, original.running_var)  # type: ignore[union-attr,arg-type]
    assert norm.weight.dtype == torch.float32  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("known", "expected"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx2": True}, "float32"), ({}, "float32")],
)
def test_auto_is_bf16_where_the_processor_has_it(
    known: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert resolve_precision("auto", torch.device("cpu")) == expected
    assert resolve_precision("float32", torch.device("cpu")) == "float32"


def test_settings_of_the_process_come_back_even_after_an_error() -> None:
    def settings() -> tuple[bool, bool]:
        return torch.are_deterministic_algorithms_enabled(), torch.backends.cuda.matmul.allow_tf32

    before, seen = settings(), []

    def fail() -> None:
        with reproducible("bf16"):
            seen.append(settings())
            raise SettingError("something failed inside.")

    with pytest.raises(SettingError):
        fail()
    assert seen == [(True, True)]
    assert settings() == before
