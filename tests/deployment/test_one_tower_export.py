"""One tower alone is exported, for our runtime and for code of one's own, which also reads its states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import d4c
from d4c.errors import SettingError
from d4c.models.clip import CLIP

PROMPTS = ["a cat", "a dog on a hill", "two boats", "night"] * 10


@pytest.fixture(scope="module")
def image_artifact(lone_image: CLIP, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image") / "artifact"
    images = d4c.synthesize(lone_image, "leaves", images=8)
    d4c.quantize(lone_image, images, "W8A8", reconstruction="none", progress=None).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text_artifact(lone_text: CLIP, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text") / "artifact"
    d4c.quantize(lone_text, None, "W8A8", prompts=PROMPTS, reconstruction="none", progress=None).save_pretrained(folder)
    return folder


def close(ours: np.ndarray, theirs: torch.Tensor) -> bool:
    difference = np.linalg.norm(ours - theirs.numpy()) / np.linalg.norm(theirs.numpy())
    return bool(ours.shape == tuple(theirs.shape) and difference < 0.02)


def test_an_image_tower_alone_runs_in_our_runtime(image_artifact: Path, tmp_path: Path) -> None:
    d4c.export(image_artifact, tmp_path / "export", progress=None)
    assert not (tmp_path / "export" / "text.onnx").exists()
    clip = d4c.load_quantized(tmp_path / "export", runtime="onnxruntime")
    artifact = d4c.load_quantized(image_artifact)
    picture = Image.effect_noise((20, 30), 90).convert("RGB")
    pixels = clip.preprocess(picture)[None]
    assert clip.towers == ("image",)
    assert close(clip.encode_image(pixels), artifact.encode_image(torch.from_numpy(pixels)))
    with pytest.raises(SettingError, match="holds the image tower alone, expected the text tower"):
        clip.tokenize("a cat")


def test_a_text_tower_alone_runs_in_our_runtime(text_artifact: Path, tmp_path: Path) -> None:
    d4c.export(text_artifact, tmp_path / "export", progress=None)
    clip = d4c.load_quantized(tmp_path / "export", runtime="onnxruntime")
    artifact = d4c.load_quantized(text_artifact)
    tokens = clip.tokenize(PROMPTS[:4])
    assert np.array_equal(tokens, artifact.tokenize(PROMPTS[:4]).numpy())
    assert close(clip.encode_text(tokens), artifact.encode_text(torch.from_numpy(tokens)))
    with pytest.raises(SettingError, match="holds the text tower alone, expected the image tower"):
        clip.preprocess(Image.new("RGB", (8, 8)))


def test_graphs_give_the_states_that_users_of_a_tower_read(
    image_artifact: Path, text_artifact: Path, tmp_path: Path
) -> None:
    for tower, folder, name in (("image", image_artifact, "pixel_values"), ("text", text_artifact, "input_ids")):
        d4c.export(folder, tmp_path / tower, target="graphs", progress=None)
        artifact = d4c.load_quantized(folder)
        inputs = artifact.tokenize(PROMPTS[:4]) if tower == "text" else torch.randn(2, 3, 16, 16)
        session = onnxruntime.InferenceSession(tmp_path / tower / f"{tower}.onnx")
        outputs = [f"{tower}_embeds", "penultimate_hidden_state", "last_hidden_state"]
        computed = session.run(outputs, {name: inputs.numpy()})
        expected = artifact.outputs(tower, inputs)
        for ours, theirs in zip(computed, ("embedding", "penultimate", "last"), strict=True):
            assert close(ours, expected[theirs])


def test_what_one_tower_cannot_be_written_as_is_refused(image_artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="An export of the text tower takes the text tower"):
        d4c.export(image_artifact, tmp_path / "a", target="graphs", tower="text", progress=None)
    with pytest.raises(SettingError, match="--for graphs"):
        d4c.export(image_artifact, tmp_path / "b", target="immich", progress=None)
