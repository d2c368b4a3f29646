"""A SigLIP passes through every stage: synthesis, quantizing, artifact, integer products, ONNX, runtime, search."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import d4c
from d4c.calibration.prompts import prompt_features
from d4c.inspection.structure import watch_patches
from d4c.integer.accelerate import accelerate
from d4c.models.clip import CLIP
from d4c.quantization.calibrate import prepare
from d4c.quantization.formats.scheme import Scheme
from d4c.quantization.layers.quantized_activations import QuantizedMatMul
from d4c.quantization.layers.quantized_weight import QuantizedLayer
from d4c.quantization.placement import default_overrides, make_plan
from d4c.quantization.quantized import QuantizedCLIP

WORDS = ["a photo of a cat", "a dog", "the cat of the dog", "photo 7", "s"]
PROMPTS = [f"{word} {i}" for i in range(7) for word in WORDS]


class Chain(NamedTuple):
    """One SigLIP, quantized, and where its artifact and its export are."""

    clip: QuantizedCLIP
    artifact: Path
    exported: Path


@pytest.fixture(scope="module")
def quantized(tiny_siglip: CLIP, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Chain]:
    """Quantizes with a scheme, writes the artifact and exports it, which compares each layer with PyTorch."""
    made: dict[str, Chain] = {}
    images = d4c.synthesize(tiny_siglip, "leaves", images=8, seed=0)

    def make(scheme: str) -> Chain:
        if scheme not in made:
            folder = tmp_path_factory.mktemp(scheme)
            clip = d4c.quantize(tiny_siglip, images, scheme, prompts=PROMPTS, reconstruction="none")
            clip.save_pretrained(folder / "artifact")
            d4c.export(folder / "artifact", folder / "onnx", unpacked=scheme == "W6A6")
            made[scheme] = Chain(clip, folder / "artifact", folder / "onnx")
        return made[scheme]

    return make


@pytest.fixture
def inputs(tiny_siglip: CLIP) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(6, 3, 32, 32).clamp(-1, 1), tiny_siglip.tokenize(WORDS)


@torch.no_grad()
@pytest.mark.parametrize("scheme", ["W8A8", "W4A4"])
def test_the_canonical_form_is_the_same_function(scheme: str, tiny_siglip: CLIP) -> None:
    clip = copy.deepcopy(tiny_siglip)
    pixels, tokens = torch.randn(12, 3, 32, 32), clip.tokenize(PROMPTS)
    plan = make_plan(clip, Scheme.parse(scheme), "deployable", default_overrides(clip, "deployable"))
    prepare(clip, pixels, tokens, ("image", "text"), plan)
    assert clip.text.begin_id is None
    for name, values in (("image", pixels), ("text", tokens)):
        expected = tiny_siglip.tower(name)(values)
        torch.testing.assert_close(
            clip.tower(name)(values), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
        )


@torch.no_grad()
@pytest.mark.parametrize("scheme", ["W4A8", "W6A6"])
def test_simulation_artifact_and_runtime_agree(
    scheme: str, quantized: Callable[[str], Chain], inputs: tuple[torch.Tensor, torch.Tensor]
) -> None:
    clip, artifact, exported = quantized(scheme)
    loaded = d4c.load_quantized(artifact)
    runtime = d4c.load_quantized(exported, runtime="onnxruntime")
    for name, values in zip(("image", "text"), inputs, strict=True):
        simulated = clip.tower(name)(values)
        assert torch.equal(loaded.tower(name)(values), simulated)
        ours = {"image": runtime.encode_image, "text": runtime.encode_text}[name](values.numpy())
        # A value on the edge of two codes may fall on either side.
        assert torch.nn.functional.cosine_similarity(torch.as_tensor(ours), simulated).min() > 0.995
    assert np.array_equal(runtime.tokenize(WORDS), inputs[1])
    pictures, labels = [Image.effect_noise((40, 25), 90).convert("RGB")], ["cat", "dog"]
    np.testing.assert_array_equal(runtime.preprocess(pictures[0]), clip.preprocess(pictures[0]))
    probabilities = runtime.classify(pictures, labels)
    np.testing.assert_allclose(probabilities, clip.classify(pictures, labels), rtol=0.02)
    np.testing.assert_allclose(probabilities[:, 1:], runtime.classify(pictures, ["dog"]), rtol=1e-5)


@torch.no_grad()
def test_the_integer_reference_of_each_layer_is_the_simulation(
    quantized: Callable[[str], Chain], inputs: tuple[torch.Tensor, torch.Tensor]
) -> None:
    clip = quantized("W4A8").clip
    compared = []

    def compare(layer: torch.nn.Module, values: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        torch.testing.assert_close(layer.integer_forward(*values), output, rtol=1e-4, atol=1e-5)  # type: ignore[operator]
        compared.append(layer)

    hooks = [layer.register_forward_hook(compare) for layer in clip.modules() if isinstance(layer, QuantizedLayer)]
    clip.encode_image(inputs[0])
    clip.encode_text(inputs[1])
    for hook in hooks:
        hook.remove()
    assert {id(layer) for layer in compared} == {id(layer) for layer in clip.layers().values()}


@torch.no_grad()
def test_integer_products_give_the_embeddings_of_the_simulation(
    quantized: Callable[[str], Chain], inputs: tuple[torch.Tensor, torch.Tensor]
) -> None:
    simulated = copy.deepcopy(quantized("W4A8").clip)
    fast = accelerate(simulated, torch.float32)
    for name, module in simulated.named_modules():
        if isinstance(module, QuantizedMatMul) and name.endswith("context"):
            module.a.enabled = False  # the one quantizer that integer towers do without
    for name, values in zip(("image", "text"), inputs, strict=True):
        cosine = torch.nn.functional.cosine_similarity(fast.tower(name)(values), simulated.tower(name)(values))
        assert cosine.min() > 0.995


def test_files_for_tools_that_know_clips_alone_are_refused(quantized: Callable[[str], Chain], tmp_path: Path) -> None:
    with pytest.raises(d4c.SettingError, match="not a CLIP with towers of the published kind"):
        d4c.export(quantized("W4A8").artifact, tmp_path / "out", target="clip-as-service")
    assert not list(tmp_path.iterdir())


def test_the_embedding_and_the_pixels_keep_eight_bits(quantized: Callable[[str], Chain]) -> None:
    layers = quantized("W4A8").clip.layers()
    eight = {name for name, layer in layers.items() if name.startswith("image") and layer.weight_args.num_bits == 8}
    pool = ("scores", "v", "out", "mlp.fc1", "mlp.fc2")
    assert eight == {"image.patch_embed", *(f"image.pool.{name}" for name in pool)}


@torch.no_grad()
def test_patches_are_weighted_by_the_pool(tiny_siglip: CLIP) -> None:
    pixels = torch.randn(3, 3, 32, 32)
    with watch_patches(tiny_siglip) as recorder:
        tiny_siglip.encode_image(pixels)
    assert recorder.similarity().shape == (3, 16, 16)
    torch.testing.assert_close(torch.cat(recorder.weights).sum(1), torch.ones(3))


@pytest.mark.parametrize("form", ["softmax", "sigmoid"])
def test_images_come_closer_to_their_prompts(form: str, tiny_siglip: CLIP) -> None:
    def margins(iterations: int) -> torch.Tensor:
        settings = {"images": 4, "iterations": iterations, "lr": 0.1, "prompts": ["cat", "dog"], "prompt_form": form}
        images = d4c.synthesize(tiny_siglip, "pgsi", seed=0, **settings)  # type: ignore[arg-type]
        with torch.no_grad():
            features = torch.nn.functional.normalize(tiny_siglip.encode_image(images.pixels))
            cosines = features @ prompt_features(tiny_siglip, images.texts).T
        own, other = (cosines.gather(1, column[:, None]) for column in (images.targets, 1 - images.targets))
        return own - other

    assert margins(25).mean() > margins(1).mean() + 0.01


@pytest.mark.parametrize("method", ["d4c", "pse"])
def test_the_form_of_the_prompt_loss_makes_other_images(method: str, tiny_siglip: CLIP) -> None:
    settings: dict[str, Any] = {"images": 2, "iterations": 3, "prompts": ["cat", "dog"]}
    forms = [d4c.synthesize(tiny_siglip, method, prompt_form=form, **settings) for form in ("softmax", "sigmoid")]
    assert not torch.equal(*(images.pixels for images in forms))


def test_a_clip_has_no_sigmoid_form(demo_vit: CLIP) -> None:
    with pytest.raises(d4c.SettingError, match="has no bias of"):
        d4c.synthesize(demo_vit, images=2, iterations=1, prompt_form="sigmoid")
