"""Exports are whole, described, reproducible, and refused in one sentence."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import d4c
from d4c import cli
from d4c.deployment.export import Export
from d4c.deployment.onnx import parity
from d4c.deployment.onnx.parity import TowerParity
from d4c.deployment.onnx.parity_sessions import open_session
from d4c.deployment.target import ExportOptions, Target, Written
from d4c.deployment.targets import TARGETS, target_help
from d4c.errors import ArtifactError, SettingError
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.tower import Tower
from d4c.models.tower_config import ResNetConfig, TextConfig, ViTConfig
from d4c.progress import Progress
from d4c.quantization.quantized import QuantizedCLIP
from d4c.storage.files import sha256

Exported = tuple[QuantizedCLIP, Export]
GRAPHS = {"image.onnx", "text.onnx"}
RECORDS = {"tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "metrics.json", "export.json"}
FILES = GRAPHS | RECORDS
MIXED = {"{image,text}.blocks.0.*": "W8A8", "{image,text}.blocks.1.*": "W6A6"}


def test_everything_a_runtime_needs_lies_together(exported: Exported) -> None:
    clip, made = exported
    assert {file.name for file in made.folder.iterdir()} == {*FILES, "manifest.json"}
    described = json.loads((made.folder / "export.json").read_text())
    assert described["scheme"] == clip.recipe["scheme"]
    assert described["logit_scale"] == clip.logit_scale
    assert described["image_size"] == clip.image_size
    for name, entry in described["files"].items():
        file = made.folder / name
        assert entry == {"bytes": file.stat().st_size, "sha256": sha256(file)}
    assert json.loads((made.folder / "metrics.json").read_text()) == json.loads(json.dumps(made.to_dict()))


def test_every_product_of_the_plan_was_compared(exported: Exported, integer_products: Callable[[Tower], int]) -> None:
    clip, made = exported
    assert made.parity is not None
    for tower, found in made.parity.items():
        assert isinstance(found, TowerParity)
        assert found.integer_layers == integer_products(clip.tower(tower))
        assert not found.float_layers
        assert all(stage.layer_error <= parity.LAYER_TOLERANCE for stage in found.stages.values())


def test_weights_take_their_bits(exported: Exported) -> None:
    """Codes, and for the rest (scales, biases, norms, positions, names) 4 bytes a number and some hundred KB."""
    clip, made = exported
    for tower in ("image", "text"):
        module = getattr(clip, tower)
        layers = {name: layer for name, layer in clip.layers().items() if name.startswith(tower)}
        stored = {2: 4, 3: 4, 4: 4, 5: 6, 6: 6, 7: 8, 8: 8}
        codes = sum(layer.stored_weights() * stored[layer.weight_args.num_bits] / 8 for layer in layers.values())
        numbers = sum(p.numel() for p in module.parameters())
        numbers += sum(layer.weight_scale.numel() * 2 for layer in layers.values())
        mask = 4 * clip.config.text.context_length**2 if tower == "text" else 0
        assert codes < made.sizes[f"{tower}.onnx"] < codes + 4 * numbers + mask + 200_000


def test_an_export_is_reproducible(artifact: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        d4c.export(artifact, tmp_path / name, check=False)
    for file in FILES:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_unpacked_graphs_compute_the_same(artifact: Path, tmp_path: Path) -> None:
    packed = d4c.export(artifact, tmp_path / "packed", check=False)
    unpacked = d4c.export(artifact, tmp_path / "unpacked", unpacked=True, check=False)
    clip = d4c.load_quantized(artifact)
    inputs = {
        "image.onnx": {"pixels": d4c.synthesize(clip, "leaves", images=2).pixels.numpy()},
        "text.onnx": {"tokens": clip.tokenize(["a cat", "two dogs"]).numpy()},
    }
    for name, feeds in inputs.items():
        a, b = (open_session(made.folder / name).run(None, feeds)[0] for made in (packed, unpacked))
        assert np.array_equal(a, b)
        assert unpacked.sizes[name] > packed.sizes[name]


def test_the_verb_stays_a_function_beside_its_package(artifact: Path, tmp_path: Path) -> None:
    import d4c.deployment.export

    assert callable(d4c.export)
    assert d4c.export(artifact, tmp_path / "out", check=False).parity is None


def test_the_default_place_is_beside_the_artifact(artifact: Path, tmp_path: Path) -> None:
    shutil.copytree(artifact, tmp_path / "mine")
    assert d4c.export(tmp_path / "mine", check=False).folder == tmp_path / "mine-onnx"
    d4c.export(tmp_path / "mine", check=False)  # takes the place of the first
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "mine-onnx"}


def broken(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return apply


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated weights": (broken("model.safetensors", lambda b: b[: len(b) // 2]), r"model.safetensors has \d+ bytes"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
    "truncated config": (broken("config.json", lambda b: b[:100]), "config.json is not JSON"),
    "newer version": (
        broken("config.json", lambda b: b.replace(b'"format_version": 1', b'"format_version": 9')),
        "format version 9",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    "truncated constants": (
        broken("preprocessor_config.json", lambda b: b[:40]),
        "preprocessor_config.json has 40 bytes",
    ),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_damaged_artifact_is_refused(damage: str, artifact: Path, tmp_path: Path) -> None:
    shutil.copytree(artifact, tmp_path / "artifact")
    apply, message = DAMAGES[damage]
    apply(tmp_path / "artifact")
    with pytest.raises(ArtifactError, match=message):
        d4c.export(tmp_path / "artifact", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_a_mismatch_leaves_nothing_behind(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "LAYER_TOLERANCE", -1.0)
    with pytest.raises(ArtifactError, match=r"computes image\.patch_embed differently.*nothing was exported"):
        d4c.export(artifact, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_other_peoples_folders_are_kept(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match="exists and is not an export"):
        d4c.export(artifact, tmp_path)
    with pytest.raises(ArtifactError, match="exists and is not an export"):
        d4c.export(artifact, artifact)


def test_the_paper_track_is_refused(tmp_path: Path) -> None:
    clip = CLIP(
        CLIPConfig(16, ViTConfig(16, 8, 32, 1, 2, 64), TextConfig(width=32, layers=1, heads=2, mlp_width=64)), "tiny"
    ).eval()
    images = d4c.synthesize(clip, "noise", images=2)
    made = d4c.quantize(clip, images, "W4A8", track="paper", reconstruction="none", prompts=["a"])
    made.save_pretrained(tmp_path / "artifact")
    with pytest.raises(SettingError, match=r"track 'paper'.*quantize with track='deployable'"):
        d4c.export(tmp_path / "artifact", tmp_path / "out")


def test_an_unknown_target_is_refused(artifact: Path) -> None:
    with pytest.raises(SettingError, match=r"'tflite' is unknown; choose one of onnx, "):
        d4c.export(artifact, target="tflite")


def write_names(clip: CLIP, folder: Path, options: ExportOptions, progress: Progress | None = None) -> Written:
    """The names of the quantized layers, and no more."""
    assert isinstance(clip, QuantizedCLIP)
    (folder / "names.json").write_text(json.dumps(list(clip.layers())))
    return Written({"unpacked": options.unpacked})


def test_a_new_target_is_one_module(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = Target("names", "the names of the layers", {}, write_names)
    monkeypatch.setitem(TARGETS, names.name, names)
    shutil.copytree(artifact, tmp_path / "artifact")
    made = d4c.export(tmp_path / "artifact", target="names")
    assert made.folder == tmp_path / "artifact-names"
    assert json.loads((made.folder / "names.json").read_text()) == list(d4c.load_quantized(artifact).layers())
    assert made.sizes == {"names.json": (made.folder / "names.json").stat().st_size}
    assert "names (the names of the layers)" in target_help()
    with pytest.raises(ArtifactError, match="for 'names', which this runtime does not execute"):
        d4c.load_quantized(made.folder, runtime="onnxruntime")


@pytest.mark.parametrize("library", ["onnx", "onnxruntime"])
def test_a_missing_library_is_named_with_its_extra(
    library: str, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SettingError, match=rf"needs {library}, .*pip install 'd4c\[onnx\]'"):
        d4c.export(artifact)


def test_the_command_prints_what_was_written(artifact: Path, tmp_path: Path) -> None:
    words = ["export", str(artifact), "-o", str(tmp_path / "out"), "--for", "onnx", "--no-check"]
    shown = CliRunner().invoke(cli.app, words)
    assert shown.exit_code == 0
    assert "image.onnx: 2." in shown.output.replace("\n", "")
    told = CliRunner().invoke(cli.app, [*words[:4], "--json"])
    data = json.loads(told.stdout)
    assert data["parity"]["text"]["float_layers"] == {}
    assert data["sizes"] == {name: (tmp_path / "out" / name).stat().st_size for name in ("image.onnx", "text.onnx")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image", "scheme", "most"),
    [
        (ViTConfig(224, 32, 768, 12, 12, 3072), "W4A4", {"image.onnx": 50e6}),
        (ViTConfig(224, 32, 768, 12, 12, 3072), "W8A8", {"text.onnx": 65e6}),
        (ResNetConfig(224, 64, (3, 4, 6, 3), 32), "W4A8", {"image.onnx": 21e6}),
    ],
    ids=["ViT-B/32 W4A4", "ViT-B/32 W8A8", "RN50 W4A8"],
)
def test_published_models_fit(
    image: ViTConfig | ResNetConfig,
    scheme: str,
    most: dict[str, float],
    quantize: Callable[..., QuantizedCLIP],
    tmp_path: Path,
) -> None:
    dim = 1024 if isinstance(image, ResNetConfig) else 512
    clip = CLIP(CLIPConfig(dim, image, TextConfig(512, 12, 8, 2048)), "published").eval().requires_grad_(False)
    quantize(clip, scheme).save_pretrained(tmp_path / "artifact")
    made = d4c.export(tmp_path / "artifact")
    assert {name: made.sizes[name] <= limit for name, limit in most.items()} == dict.fromkeys(most, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "scheme", "overrides"),
    [("demo-vit", "W8A8", {}), ("demo-vit", "W4A4", MIXED), ("demo-rn", "W6A6", {})],
    ids=["vit-W8A8", "vit-mixed", "rn-W6A6"],
)
def test_accuracy_is_that_of_the_artifact(
    model: str, scheme: str, overrides: dict[str, str], quantize: Callable[..., QuantizedCLIP], tmp_path: Path
) -> None:
    """Within one point of top-1 on the embedded evaluation pack."""
    quantize(d4c.load(model), scheme, overrides=overrides).save_pretrained(tmp_path / "artifact")
    clip = d4c.load_quantized(tmp_path / "artifact")
    runtime = d4c.load_quantized(d4c.export(tmp_path / "artifact").folder, runtime="onnxruntime")
    expected, found = d4c.evaluate(clip, "demo"), d4c.evaluate(runtime, "demo")
    assert abs(found.top1.value - expected.top1.value) <= 1
