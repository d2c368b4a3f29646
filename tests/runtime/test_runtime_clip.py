"""An export in a runtime is the artifact in PyTorch."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import d4c
from d4c.errors import ArtifactError, DataError, SettingError
from d4c.evaluation.readers.demo_pack import demo_dataset
from d4c.loading import _say_that_simulation_is_slow, load_quantized
from d4c.models.clip import CLIP
from d4c.quantization.quantized import QuantizedCLIP
from d4c.runtime.runtime_clip import RuntimeCLIP
from d4c.runtime.sessions import Provider
from d4c.templates import EMOJI_TEMPLATES

PROMPTS = ["a photo of a cat.", "tree", "two dogs in the snow under a very old oak", ""]


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def stacked(model: RuntimeCLIP, pictures: dict[str, Image.Image]) -> NDArray[np.float32]:
    return np.stack([model.preprocess(picture) for picture in pictures.values()])


def test_inputs_are_those_of_pytorch(
    model: RuntimeCLIP, quantized: QuantizedCLIP, emoji: dict[str, Image.Image]
) -> None:
    assert np.array_equal(model.tokenize(PROMPTS), quantized.tokenize(PROMPTS).numpy())
    for picture in emoji.values():
        assert np.array_equal(model.preprocess(picture), quantized.preprocess(picture).numpy())
    assert (model.name, model.image_size, model.logit_scale) == (
        quantized.name,
        quantized.image_size,
        quantized.logit_scale,
    )


def test_embeddings_are_those_of_pytorch(
    any_model: RuntimeCLIP, quantized: QuantizedCLIP, emoji: dict[str, Image.Image]
) -> None:
    """Up to codes that flip where float32 rounds otherwise: 0.9996 is the least of 100 emoji."""
    pixels, tokens = stacked(any_model, emoji), any_model.tokenize(PROMPTS)
    with torch.no_grad():
        images = quantized.encode_image(torch.from_numpy(pixels)).numpy()
        texts = quantized.encode_text(torch.from_numpy(tokens)).numpy()
    assert cosines(any_model.encode_image(pixels), images).min() > 0.998
    assert cosines(any_model.encode_text(tokens), texts).min() > 0.998


def test_a_batch_is_its_pictures_one_by_one(model: RuntimeCLIP, emoji: dict[str, Image.Image]) -> None:
    pixels = stacked(model, emoji)
    alone = np.concatenate([model.encode_image(pixels[i : i + 1]) for i in range(len(pixels))])
    assert np.allclose(model.encode_image(pixels), alone, atol=1e-4 * np.abs(alone).max())


def test_padding_does_not_count(any_model: RuntimeCLIP) -> None:
    tokens = any_model.tokenize(PROMPTS)
    least = int(tokens.argmax(1).max()) + 1
    assert least < 16
    assert np.array_equal(any_model.encode_text(tokens), any_model.encode_text(tokens[:, :least]))
    whole = any_model._graphs["text"](np.ascontiguousarray(tokens))
    assert np.allclose(any_model.encode_text(tokens), whole, atol=1e-4 * np.abs(whole).max())


def test_threads_get_what_one_thread_gets(any_model: RuntimeCLIP, emoji: dict[str, Image.Image]) -> None:
    """A single request of OpenVINO refuses a second caller as busy."""
    pixels = stacked(any_model, emoji)
    tokens = any_model.tokenize(PROMPTS)
    images = [any_model.encode_image(pixels[i : i + 1]) for i in range(len(pixels))]
    texts = [any_model.encode_text(tokens[i : i + 1]) for i in range(len(tokens))]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            again = [pool.submit(any_model.encode_image, pixels[i : i + 1]) for i in range(len(pixels))]
            words = [pool.submit(any_model.encode_text, tokens[i : i + 1]) for i in range(len(tokens))]
            for expected, found in zip(images + texts, again + words, strict=True):
                assert np.array_equal(found.result(), expected)


def test_a_pickle_opens_the_export_again(
    any_model: RuntimeCLIP, emoji: dict[str, Image.Image], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packed = pickle.dumps(any_model)
    assert len(packed) < 1000
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(packed)
    pixels = stacked(any_model, emoji)[:2]
    assert again.runtime == any_model.runtime
    assert np.array_equal(again.encode_image(pixels), any_model.encode_image(pixels))


def test_no_inputs_give_no_rows(any_model: RuntimeCLIP) -> None:
    assert any_model.encode_image(np.zeros((0, 3, 64, 64), np.float32)).shape == (0, 256)
    assert any_model.encode_text(any_model.tokenize([])).shape == (0, 256)
    assert any_model.classify([], ["cat", "dog"]).shape == (0, 2)


REFUSALS: dict[str, tuple[str, Any, str]] = {
    "one picture": ("encode_image", np.zeros((3, 64, 64)), r"shape \[3, 64, 64\], expected \[N, 3, 64, 64\]"),
    "wrong size": ("encode_image", np.zeros((1, 3, 32, 32)), r"shape \[1, 3, 32, 32\]"),
    "channels last": ("encode_image", np.zeros((1, 64, 64, 3)), r"shape \[1, 64, 64, 3\]"),
    "one prompt": ("encode_text", np.zeros(77, np.int64), r"int64 of shape \[77\]"),
    "too long": ("encode_text", np.zeros((1, 78), np.int64), r"shape \[1, 78\], .* \[N, 1 to 77\]"),
    "no tokens": ("encode_text", np.zeros((1, 0), np.int64), r"shape \[1, 0\]"),
    "float tokens": ("encode_text", np.zeros((1, 7)), r"float64 of shape"),
    "large token": ("encode_text", np.full((1, 7), 49408), r"from 49408 to 49408, expected ids from 0 to 49407"),
    "negative token": ("encode_text", np.full((1, 7), -1), r"from -1 to -1"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_wrong_inputs_are_refused(case: str, model: RuntimeCLIP) -> None:
    method, given, message = REFUSALS[case]
    with pytest.raises(DataError, match=message):
        getattr(model, method)(given)


def test_classification_is_that_of_pytorch(
    any_model: RuntimeCLIP, quantized: QuantizedCLIP, emoji: dict[str, Image.Image]
) -> None:
    pictures, labels = list(emoji.values()), list(emoji)
    found, expected = any_model.classify(pictures, labels), quantized.classify(pictures, labels)
    assert isinstance(expected, np.ndarray)
    assert np.abs(found - expected).max() < 0.1
    assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.9


def test_an_evaluation_counts_what_classify_says(model: RuntimeCLIP) -> None:
    data = demo_dataset()
    data = replace(data, classes=data.classes[:20], labels=data.labels[:20])
    pictures = [data.picture(i) for i in range(20)]
    hits = model.classify(pictures, data.classes, EMOJI_TEMPLATES).argmax(1) == np.arange(20)
    assert d4c.evaluate(model, data).top1.value == pytest.approx(100 * hits.mean())


def test_a_simulation_says_once_that_it_is_slow(artifact: Path, recwarn: pytest.WarningsRecorder) -> None:
    warnings.simplefilter("always")
    _say_that_simulation_is_slow.cache_clear()
    for _ in range(2):
        load_quantized(artifact)
    assert [Path(warning.filename).name for warning in recwarn] == ["test_runtime_clip.py"]
    assert "run d4c export" in str(recwarn[0].message)


def test_loading_and_running_needs_no_torch(exported: Path) -> None:
    program = f"""
import sys
absent = ("huggingface_hub", "onnx", "open_clip", "pyarrow", "safetensors", "torch", "torchvision", "transformers")
sys.modules.update(dict.fromkeys(absent))
import d4c
from PIL import Image
for runtime in ("onnxruntime", "openvino"):
    model = d4c.load_quantized({str(exported)!r}, runtime=runtime)
    print(model.classify([Image.new("RGB", (9, 9), "red")], ["rose", "sky"]).sum())
try:
    d4c.load_quantized("anywhere")
except d4c.SettingError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *sums, refusal = done.stdout.splitlines()
    assert [float(total) for total in sums] == pytest.approx([1, 1])
    assert refusal == "This needs torch, which is not installed; run pip install 'd4c[quantize]'."


def test_the_command_line_needs_no_torch_to_say_so() -> None:
    program = """
import sys
sys.modules["torch"] = None
sys.argv = ["d4c", "evaluate", "demo-vit"]
from d4c.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: This needs torch, which is not installed; run pip install 'd4c[quantize]'.\n"


def test_runtimes_are_known_and_compute_on_the_cpu(exported: Path) -> None:
    with pytest.raises(SettingError, match="'tflite' is neither 'onnxruntime' nor 'openvino'"):
        load_quantized(exported, runtime="tflite")  # type: ignore[call-overload]
    with pytest.raises(SettingError, match="computes on the CPU, not on cuda"):
        load_quantized(exported, "cuda", runtime="onnxruntime")


PROVIDERS = onnxruntime.get_available_providers()


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("options", [False, True], ids=["name", "options"])
def test_an_installed_provider_gives_what_the_cpu_gives(
    provider: str, options: bool, exported: Path, model: RuntimeCLIP
) -> None:
    providers: list[Provider] = [(provider, {}) if options else provider]
    other = pickle.loads(pickle.dumps(load_quantized(exported, runtime="onnxruntime", threads=1, providers=providers)))
    tokens = model.tokenize(PROMPTS)
    expected = model.encode_text(tokens)
    assert np.allclose(other.encode_text(tokens), expected, atol=1e-4 * np.abs(expected).max())


def test_openvino_gives_the_same_on_one_thread(exported: Path, model: RuntimeCLIP) -> None:
    tokens = model.tokenize(PROMPTS)
    one, many = (load_quantized(exported, runtime="openvino", threads=threads) for threads in (1, None))
    expected = many.encode_text(tokens)
    assert np.allclose(one.encode_text(tokens), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["CUDA", "TensorRT", "CoreML", "Dml", "OpenVINO"])
def test_a_provider_that_is_not_installed_is_named(name: str, exported: Path) -> None:
    name = f"{name}ExecutionProvider".replace("TensorRT", "Tensorrt")
    if name in PROVIDERS:
        pytest.skip("it is installed")
    with pytest.raises(SettingError, match=f"has no execution provider '{name}', only .*CPUExecutionProvider"):
        load_quantized(exported, runtime="onnxruntime", providers=[name])


def test_a_provider_that_does_not_start_is_named(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", *PROVIDERS])
    if "CUDAExecutionProvider" in PROVIDERS:
        pytest.skip("it is installed")
    with pytest.raises(SettingError, match="CUDAExecutionProvider, but cannot start it here"):
        load_quantized(exported, runtime="onnxruntime", providers=["CUDAExecutionProvider"])


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, 5000])
def test_a_number_of_threads_that_is_none_is_refused(threads: Any, exported: Path) -> None:
    with pytest.raises(SettingError, match=f"The number of threads is {threads}, expected a whole number from 1"):
        load_quantized(exported, runtime="onnxruntime", threads=threads)


def test_threads_and_providers_are_for_exports_in_their_runtime(exported: Path, artifact: Path) -> None:
    with pytest.raises(SettingError, match="'openvino' takes no execution providers such as 'CPUExecutionProvider'"):
        load_quantized(exported, runtime="openvino", providers=["CPUExecutionProvider"])
    with pytest.raises(SettingError, match="expected a list of names"):
        load_quantized(exported, runtime="onnxruntime", providers="CPUExecutionProvider")
    with pytest.raises(SettingError, match="Threads and providers are for exports"):
        load_quantized(artifact, threads=2)  # type: ignore[call-overload]


def test_a_missing_runtime_is_named_with_its_extra(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(SettingError, match=r"needs openvino, .*pip install 'd4c\[openvino\]'"):
        load_quantized(exported, runtime="openvino")


@pytest.mark.parametrize(
    ("value", "message"), [(0.0, "2 of 2 are zero"), (np.nan, "2 of 2 are not finite"), (0.5, "all 2 are the same")]
)
def test_a_damaged_image_tower_is_refused(
    value: float, message: str, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = RuntimeCLIP(exported)
    monkeypatch.setitem(model._graphs, "image", lambda pixels: np.full((len(pixels), 4), value, np.float32))
    pixels = np.stack([np.zeros((3, 64, 64)), np.ones((3, 64, 64))])
    with pytest.raises(ArtifactError, match=f"The image tower of .* is damaged: of its embeddings {message}"):
        model.encode_image(pixels)


def test_one_picture_that_gives_no_numbers_is_no_damaged_tower(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = RuntimeCLIP(exported)
    rows = np.array([[1, 2], [np.nan, 0]], np.float32)
    monkeypatch.setitem(model._graphs, "image", lambda pixels: rows)
    assert model.encode_image(np.zeros((2, 3, 64, 64))) is rows


def test_a_damaged_text_tower_is_refused(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = RuntimeCLIP(exported)
    monkeypatch.setitem(model._graphs, "text", lambda tokens: np.full((len(tokens), 4), 0.5, np.float32))
    with pytest.raises(ArtifactError, match=r"The text tower of .* all 4 are the same"):
        model.encode_text(model.tokenize(PROMPTS))
    assert (model.encode_text(model.tokenize(["a cat", "a cat"])) == 0.5).all()


def test_equal_pictures_have_equal_embeddings(model: RuntimeCLIP) -> None:
    embeddings = model.encode_image(np.zeros((2, 3, 64, 64), np.float32))
    assert np.array_equal(embeddings[0], embeddings[1])


def test_a_reference_that_the_export_was_not_made_from_is_refused(
    model: RuntimeCLIP, quantized: QuantizedCLIP, demo_rn: CLIP
) -> None:
    assert model.origin == quantized.origin
    for each in (model, quantized):
        with pytest.raises(SettingError, match=r"The reference 'demo-rn' does not have the weights that 'demo-vit'"):
            d4c.evaluate(each, "demo", reference=demo_rn, limit=1)


def test_a_folder_of_another_kind_names_what_reads_it(exported: Path, artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "artifact").mkdir(parents=True)
    (tmp_path / "float").mkdir()
    (tmp_path / "float" / "config.json").write_text('{"model_type": "clip"}')
    for folder, message in {
        exported: r"is an export, .* use d4c.load_quantized\('.*', runtime='onnxruntime'\)",
        tmp_path / "run": r"is the folder of a run, expected an artifact; use .*artifact",
        tmp_path / "float": "is not a quantized model, .* use d4c.load for a float one",
    }.items():
        with pytest.raises(ArtifactError, match=message):
            load_quantized(folder)
        with pytest.raises(ArtifactError, match=message):
            d4c.export(folder, tmp_path / "out")
    with pytest.raises(ArtifactError, match=r"run d4c export .* and give the folder that it writes"):
        load_quantized(artifact, runtime="onnxruntime")
