"""Exports of a SigLIP for other tools: their names and classes for it, and our embeddings and logits."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import d4c
from d4c.models.clip import CLIP
from d4c.models.tower_config import ViTConfig
from d4c.runtime.runtime_clip import RuntimeCLIP
from d4c.zeroshot.classification import unit_rows

HERE = Path(__file__).parent
NODE, PYTHON, ANSWERS = HERE / "node", HERE.parents[2] / "build/dropin/bin/python", HERE / "tools" / "answers.py"
LABELS = ("cat", "dog", "photo of a cat", "the dogs")
TEMPLATE = "a photo of {}."
Exports = Callable[..., Path]


@pytest.fixture(scope="module")
def siglip_for(tiny_siglip: CLIP, tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """The folder of a quantized SigLIP for a tool."""
    images = d4c.synthesize(tiny_siglip, "leaves", images=8, seed=0)
    prompts = [TEMPLATE.format(label) for label in LABELS]
    artifact = tmp_path_factory.mktemp("siglip") / "artifact"
    quantized = d4c.quantize(tiny_siglip, images, "W4A8", prompts=prompts, reconstruction="none")
    quantized.save_pretrained(artifact)

    def made(target: str, **options: Any) -> Path:
        folder = artifact.with_name("-".join([target, *options]))
        if not folder.exists():
            d4c.export(artifact, folder, target=target, **options)
        return folder

    return made


@pytest.fixture(scope="module")
def our_siglip(siglip_for: Exports) -> RuntimeCLIP:
    return RuntimeCLIP(siglip_for("onnx"), "onnxruntime")


@pytest.fixture(scope="module")
def pictures(tiny_siglip: CLIP, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Dead leaves of the size that the model reads, so that no tool scales them."""
    folder = tmp_path_factory.mktemp("pictures")
    d4c.synthesize(tiny_siglip, "leaves", images=6, seed=1).save(folder / "set")
    return sorted(str(path) for path in (folder / "set" / "images").glob("*.png"))


@pytest.fixture(scope="module")
def ours(our_siglip: RuntimeCLIP, pictures: list[str]) -> tuple[Any, Any, Any]:
    """Our embeddings of the pictures and of the labels under the template, and the logits."""
    image = our_siglip.encode_image([our_siglip.preprocess(path) for path in pictures])
    text = our_siglip.encode_text(our_siglip.tokenize([TEMPLATE.format(label) for label in LABELS]))
    assert our_siglip.logit_bias is not None
    logits = our_siglip.logit_scale * unit_rows(image) @ unit_rows(text).T + our_siglip.logit_bias
    return image, text, logits


def cosine(a: Any, b: Any) -> Any:
    return (unit_rows(np.array(a)) * unit_rows(np.array(b))).sum(-1)


def feeds(our_siglip: RuntimeCLIP, pictures: list[str]) -> dict[str, Any]:
    return {
        "pixel_values": np.stack([our_siglip.preprocess(path) for path in pictures]),
        "input_ids": our_siglip.tokenize([TEMPLATE.format(label) for label in LABELS]),
    }


@pytest.mark.parametrize(
    ("target", "image_file", "text_file"),
    [
        ("transformers.js", "onnx/vision_model_q4.onnx", "onnx/text_model_q4.onnx"),
        ("fastembed", "onnx/vision_model.onnx", "onnx/text_model.onnx"),
    ],
)
def test_a_graph_of_one_tower_gives_what_its_class_reads(
    target: str, image_file: str, text_file: str, siglip_for: Exports, our_siglip: RuntimeCLIP, pictures: Any, ours: Any
) -> None:
    given = feeds(our_siglip, pictures)
    for file, name, expected in ((image_file, "pixel_values", ours[0]), (text_file, "input_ids", ours[1])):
        session = onnxruntime.InferenceSession(siglip_for(target) / file)
        assert [port.name for port in session.get_inputs()] == [name]
        assert [port.name for port in session.get_outputs()] == ["pooler_output"]
        assert cosine(session.run(None, {name: given[name]})[0], expected).min() > 0.999


@pytest.mark.parametrize(("target", "file"), [("transformers.js", "onnx/model_q4.onnx"), ("optimum", "model.onnx")])
def test_logits_have_the_bias(
    target: str, file: str, siglip_for: Exports, our_siglip: RuntimeCLIP, pictures: Any, ours: Any
) -> None:
    session = onnxruntime.InferenceSession(siglip_for(target) / file)
    by_image, by_text, text, image = session.run(None, feeds(our_siglip, pictures))
    assert np.array_equal(by_image, by_text.T)
    scale, bias = our_siglip.logit_scale, our_siglip.logit_bias
    assert np.allclose(by_image, scale * image @ text.T + bias, atol=1e-4)
    assert cosine(image, ours[0]).min() > 0.999
    assert cosine(text, ours[1]).min() > 0.999


def test_immich_embeds_as_its_steps_say(siglip_for: Exports, immich: Any, pictures: Any, ours: Any) -> None:
    """Pictures are scaled to a square; the tokenizer cleans by itself."""
    model = immich(siglip_for("immich"))
    assert model.how["resize_mode"] == "squash"
    for label, expected in zip(LABELS, ours[1], strict=True):
        assert cosine(model.text(TEMPLATE.format(label))[None], expected[None]).min() > 0.999
    for path, expected in zip(pictures, ours[0], strict=True):
        assert cosine(model.image(path)[None], expected[None]).min() > 0.999


def test_transformers_reads_the_configuration(siglip_for: Exports, tiny_siglip: CLIP) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.from_pretrained(siglip_for("optimum"))
    assert isinstance(config, transformers.SiglipConfig)
    shapes = {name: value.shape for name, value in transformers.SiglipModel(config).state_dict().items()}
    image, text = tiny_siglip.config.image, tiny_siglip.config.text
    assert isinstance(image, ViTConfig)
    patch = (image.width, 3, image.patch_size, image.patch_size)
    assert shapes["vision_model.embeddings.patch_embedding.weight"] == patch
    assert shapes["text_model.embeddings.token_embedding.weight"] == (text.vocab_size, text.width)
    assert shapes["text_model.embeddings.position_embedding.weight"] == (text.context_length, text.width)
    assert config.vision_config.hidden_act == config.text_config.hidden_act == "gelu_pytorch_tanh"
    assert config.vision_config.image_size == image.image_size


def test_the_default_target_takes_a_narrow_table(siglip_for: Exports, ours: Any, tiny_siglip: CLIP) -> None:
    """The export itself compares each layer with the table as it is rounded."""
    folder = siglip_for("onnx", narrow_table=True)
    for runtime in ("onnxruntime", "openvino"):
        narrow = RuntimeCLIP(folder, runtime)
        text = narrow.encode_text(narrow.tokenize([TEMPLATE.format(label) for label in LABELS]))
        assert 0.98 < cosine(text, ours[1]).min() < 0.999999
    rows, width = tiny_siglip.text.token_embedding.weight.shape
    # A byte instead of two halves, and a byte more for each group of columns.
    saved = (siglip_for("onnx") / "text.onnx").stat().st_size - (folder / "text.onnx").stat().st_size
    assert saved > rows * width * (1 / 2 - 1 / 32) - 4096


@pytest.mark.skipif(not (NODE / "node_modules").is_dir(), reason="needs Node; make test-dropin installs it")
def test_node_gives_our_embeddings_and_probabilities(
    siglip_for: Exports, our_siglip: Any, pictures: Any, ours: Any
) -> None:
    node = shutil.which("node")
    assert node is not None
    folder = siglip_for("transformers.js")
    given = {"pictures": pictures, "labels": LABELS, "template": TEMPLATE}
    command = [node, str(NODE / "classify.mjs"), str(folder.parent), folder.name]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert np.array_equal(found["ids"], our_siglip.tokenize([TEMPLATE.format(label) for label in LABELS]))
    image, text, logits = ours
    assert np.allclose(found["image"], image, atol=1e-3 * np.abs(image).max())
    assert np.allclose(found["text"], text, atol=1e-3 * np.abs(text).max())
    assert found["classes"] == [LABELS[i] for i in logits.argmax(-1)]
    assert np.allclose(found["scores"], 1 / (1 + np.exp(-logits.max(-1))), rtol=1e-2)


@pytest.mark.skipif(not PYTHON.exists(), reason="needs other tools; make test-dropin installs them")
@pytest.mark.parametrize(("tool", "target"), [("optimum", "optimum"), ("fastembed-siglip", "fastembed")])
def test_a_tool_gives_our_embeddings(tool: str, target: str, siglip_for: Exports, pictures: Any, ours: Any) -> None:
    given = json.dumps({"pictures": pictures, "prompts": [TEMPLATE.format(label) for label in LABELS]})
    command = [str(PYTHON), str(ANSWERS), tool, str(siglip_for(target))]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    image, text, logits = ours
    assert cosine(answer["image"], image).min() > 1 - 1e-4
    assert cosine(answer["text"], text).min() > 1 - 1e-4
    if answer["logits"] is not None:
        assert np.allclose(answer["logits"], logits, atol=1e-2)
