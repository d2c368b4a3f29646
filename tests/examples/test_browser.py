"""The browser example sees the pixels that Python sees, and says what Python says."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import d4c
from d4c.errors import ArtifactError, DataError
from d4c.evaluation.readers.demo_pack import demo_dataset
from d4c.models.clip import CLIP
from d4c.models.inputs.preprocess import pixels
from d4c.zeroshot.classification import label_embeddings

EXAMPLE = Path(__file__).parents[2] / "examples" / "browser"
DROP = Path(__file__).with_name("drop.mjs")
LABELS = ["cat", "dog", "apple", "zebra", "violin", "ghost"]
NODE, NPM = shutil.which("node"), shutil.which("npm")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def prepare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare", EXAMPLE / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def exported(demo_vit: CLIP, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser") / "artifact"
    images = d4c.synthesize(demo_vit, "noise", images=4)
    d4c.quantize(demo_vit, images, "W4A8", reconstruction="none", prompts=["a cat"]).save_pretrained(folder)
    return d4c.export(folder, check=False).folder


@pytest.fixture(scope="module")
def packed(exported: Path) -> Path:
    """The folder with the graph for GPUs, of the same artifact."""
    artifact = exported.with_name("artifact")
    return d4c.export(artifact, target="graphs", webgpu=True, tower="image", check=False).folder


@pytest.fixture(scope="module")
def runtime(prepare: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files of the names that onnxruntime-web has."""
    folder = tmp_path_factory.mktemp("dist")
    for name in prepare.RUNTIME + prepare.WEBGPU_RUNTIME:
        (folder / name).write_text(name)
    return folder


@pytest.mark.skipif(NODE is None, reason="needs node")
@pytest.mark.parametrize(
    "size", [(64, 64), (65, 64), (100, 75), (75, 101), (9, 7), (1, 1), (333, 127), (300, 9)], ids=str
)
def test_pixels_are_pythons_within_a_step(size: tuple[int, int], tmp_path: Path) -> None:
    rng = np.random.default_rng(size[0])
    picture = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 4), np.uint8), "RGBA")
    picture.putalpha(255)
    (tmp_path / "rgba").write_bytes(picture.tobytes())
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    program = f"""
import {{ readFileSync, writeFileSync }} from "node:fs";
import {{ normalize, resizeAndCrop }} from {json.dumps((EXAMPLE / "pixels.js").as_uri())};
const data = readFileSync({json.dumps(str(tmp_path / "rgba"))});
const bytes = resizeAndCrop({{ width: {size[0]}, height: {size[1]}, data }}, 64);
writeFileSync({json.dumps(str(tmp_path / "pixels"))}, normalize(bytes, {{ mean: {list(mean)}, std: {list(std)} }}));
"""
    subprocess.run([str(NODE), "--input-type=module", "-e", program], check=True)
    found = np.fromfile(tmp_path / "pixels", np.float32).reshape(3, 64, 64)
    assert np.abs(found - pixels(picture.convert("RGB"), 64, mean, std)).max() <= 1 / 255 / min(std) + 1e-5


def test_the_site_holds_all_it_needs(
    prepare: ModuleType, exported: Path, packed: Path, runtime: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    always = {*prepare.PAGE, "image.onnx", "model.json", "manifest.json", *(f"ort/{name}" for name in prepare.RUNTIME)}
    on_gpu = {prepare.WEBGPU_GRAPH, *(f"ort/{name}" for name in prepare.WEBGPU_RUNTIME)}
    for webgpu, expected in ((packed, always | on_gpu), (None, always), (None, always)):
        prepare.prepare(exported, LABELS, runtime, site, webgpu)
        assert {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()} == expected
        assert json.loads((site / "model.json").read_text())["webgpu"] is (webgpu is not None)
    assert (site / "image.onnx").read_bytes() == (exported / "image.onnx").read_bytes()


def test_its_labels_give_the_probabilities_of_classify(
    prepare: ModuleType, exported: Path, runtime: Path, tmp_path: Path
) -> None:
    prepare.prepare(exported, LABELS, runtime, tmp_path / "site")
    settings = json.loads((tmp_path / "site" / "model.json").read_text())
    model = d4c.load_quantized(exported, runtime="onnxruntime")
    picture = demo_dataset().image(3)
    embedding = model.encode_image(model.preprocess(picture)[None])[0]
    logits = settings["logit_scale"] * np.array(settings["texts"]) @ embedding / np.linalg.norm(embedding)
    found = np.exp(logits) / np.exp(logits).sum()
    assert np.allclose(found, model.classify([picture], settings["labels"], prepare.TEMPLATES)[0], atol=1e-4)


def test_what_is_missing_is_named(prepare: ModuleType, exported: Path, runtime: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lacks ort\.wasm\.min\.mjs; run npm install"):
        prepare.prepare(exported, LABELS, tmp_path, tmp_path / "site")
    with pytest.raises(DataError, match=r"lacks image_q4\.onnx; make it with d4c export --for graphs --webgpu"):
        prepare.prepare(exported, LABELS, runtime, tmp_path / "site", exported)
    with pytest.raises(DataError, match="expected at least one, all strings"):
        prepare.prepare(exported, [], runtime, tmp_path / "site")
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ArtifactError, match="exists and is not a site"):
        prepare.prepare(exported, LABELS, runtime, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.fixture(scope="module")
def site(
    prepare: ModuleType, exported: Path, packed: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """The address of the whole site, and the folder in which npm installed what package.json names."""
    if NPM is None or CHROMIUM is None:
        pytest.skip("needs npm and chromium")
    folder = tmp_path_factory.mktemp("npm")
    shutil.copyfile(EXAMPLE / "package.json", folder / "package.json")
    subprocess.run([NPM, "install", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, check=True)
    out = folder / "site"
    prepare.prepare(exported, LABELS, folder / "node_modules" / "onnxruntime-web" / "dist", out, packed)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(out)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", folder
    server.shutdown()
    server.server_close()


def drop(site: tuple[str, Path], picture: Path, width: int, *browser: str) -> dict[str, Any]:
    command = [str(NODE), str(DROP), site[0], str(CHROMIUM), str(picture), str(width), *browser]
    done = subprocess.run(command, cwd=site[1], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1280])
def test_a_dropped_picture_is_classified_as_in_python(
    width: int, site: tuple[str, Path], prepare: ModuleType, exported: Path, tmp_path: Path
) -> None:
    picture = demo_dataset().picture(86).resize((97, 120))
    picture.save(tmp_path / "picture.png")
    found = drop(site, tmp_path / "picture.png", width)
    model = d4c.load_quantized(exported, runtime="onnxruntime")
    expected = model.classify([picture], LABELS, prepare.TEMPLATES)[0]
    assert found["ready"] == "Ready: 6 labels, in WASM, with integers."
    assert np.abs(np.array(found["probabilities"]) - expected).max() < 0.05
    assert found["shown"][0] == LABELS[int(expected.argmax())]
    assert len(found["shown"]) == 5
    assert (found["problems"], found["overflow"]) == ([], 0)


# A software implementation of WebGPU, so that no GPU is needed.
SOFTWARE_GPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--use-vulkan=swiftshader")


@pytest.mark.slow
def test_a_browser_with_webgpu_computes_on_it(
    site: tuple[str, Path], prepare: ModuleType, exported: Path, packed: Path, tmp_path: Path
) -> None:
    picture = demo_dataset().picture(86).resize((97, 120))
    picture.save(tmp_path / "picture.png")
    found = drop(site, tmp_path / "picture.png", 1280, *SOFTWARE_GPU)
    model = d4c.load_quantized(exported, runtime="onnxruntime")
    graph = onnxruntime.InferenceSession(packed / prepare.WEBGPU_GRAPH)
    (embedding,) = graph.run(None, {"pixel_values": model.preprocess(picture)[None]})[0]
    texts = label_embeddings(LABELS, prepare.TEMPLATES, model.tokenize, model.encode_text)
    powers = np.exp(model.logit_scale * texts @ embedding / np.linalg.norm(embedding))
    assert found["ready"] == "Ready: 6 labels, in WebGPU, with packed weights."
    assert np.abs(np.array(found["probabilities"]) - powers / powers.sum()).max() < 0.05
    assert found["problems"] == []


@pytest.mark.slow
def test_a_dropped_file_that_is_no_picture_is_named(site: tuple[str, Path], tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"no picture")
    found = drop(site, tmp_path / "picture.png", 1280)
    assert found["status"] == "picture.png does not decode as a picture; choose another one."
    assert found["shown"] == []
