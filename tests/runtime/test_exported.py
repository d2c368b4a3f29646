"""Exports that are damaged, incomplete, too new or something else are refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from d4c.errors import ArtifactError, SettingError
from d4c.reading.seal import CHECKSUM, write_sealed
from d4c.runtime.runtime_clip import RuntimeCLIP

Sign = Callable[[Path], None]


def described(folder: Path, **changes: Any) -> None:
    data = json.loads((folder / "export.json").read_text())
    sealed = {key: value for key, value in {**data, **changes}.items() if key != CHECKSUM}
    write_sealed(folder / "export.json", sealed)


def shortened(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no image graph": (
        lambda f: (f / "image.onnx").unlink(),
        r"image\.onnx is missing; the export is damaged, run d4c",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
    "no mean and std": (lambda f: (f / "preprocessor_config.json").unlink(), r"preprocessor_config\.json is missing"),
    "truncated graph": (lambda f: shortened(f / "text.onnx"), r"text\.onnx has \d+ bytes, expected \d+; the export is"),
    "flipped bit": (lambda f: flipped(f / "image.onnx"), r"image\.onnx has changed since it was written"),
    "truncated description": (lambda f: shortened(f / "export.json"), r"export\.json is not JSON"),
    "newer version": (lambda f: described(f, format_version=9), "has format version 9, but this d4c reads up to 1"),
    "no scale": (lambda f: described(f, logit_scale=None), "logit_scale is null, expected a number"),
    "no files": (lambda f: described(f, files={}), r"files\.image\.onnx is missing"),
    "a list": (lambda f: (f / "export.json").write_text("[]"), "expected a table"),
    "binary": (lambda f: (f / "export.json").write_bytes(b"\xff\xfe"), "is not JSON"),
    "no description": (
        lambda f: (f / "export.json").unlink(),
        r"holds no export\.json; give the folder that d4c export",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named(damage: str, copy: Path) -> None:
    apply, message = DAMAGES[damage]
    apply(copy)
    with pytest.raises(ArtifactError, match=message) as caught:
        RuntimeCLIP(copy)
    assert "\n" not in str(caught.value)


def test_an_artifact_is_told_from_its_export(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=rf"holds no graphs for this runtime; run d4c export {artifact} and give"):
        RuntimeCLIP(artifact)
    run = tmp_path / "run"
    run.mkdir()
    (run / "artifact").symlink_to(artifact)
    with pytest.raises(ArtifactError, match=rf"run d4c export {run / 'artifact'} and give"):
        RuntimeCLIP(run)
    (run / "float").mkdir()
    (run / "float" / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ArtifactError, match=r"is not a quantized model, .* export it with --float32"):
        RuntimeCLIP(run / "float")
    with pytest.raises(ArtifactError, match=r"gone is not an existing folder; give the folder that d4c export wrote"):
        RuntimeCLIP(tmp_path / "gone")


def test_a_graph_that_is_none_is_refused(copy: Path, sign: Sign) -> None:
    (copy / "image.onnx").write_bytes(b"\x08\x0anonsense")
    sign(copy)
    with pytest.raises(ArtifactError, match=r"image\.onnx is not a graph of d4c: it is not an ONNX graph"):
        RuntimeCLIP(copy)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_graph_that_a_runtime_cannot_load_is_named(runtime: str, copy: Path, sign: Sign) -> None:
    graph = onnx.load(copy / "image.onnx")
    graph.graph.node[3].input[0] = "nowhere"
    onnx.save(graph, copy / "image.onnx")
    sign(copy)
    with pytest.raises(
        SettingError, match=rf"cannot load .*image\.onnx, a graph of opset 21 \(.*install a newer {runtime}"
    ):
        RuntimeCLIP(copy, runtime)


def test_graphs_of_two_models_are_not_mixed(copy: Path, sign: Sign) -> None:
    graph = onnx.load(copy / "text.onnx")
    graph.metadata_props[0].value = "0" * 64
    onnx.save(graph, copy / "text.onnx")
    sign(copy)
    with pytest.raises(ArtifactError, match=r"text\.onnx was not made from the artifact that export\.json names"):
        RuntimeCLIP(copy)


@pytest.mark.parametrize("change", [{"image_size": 32}, {"embed_dim": 8}], ids=str)
def test_sizes_agree_with_the_graphs(change: dict[str, int], copy: Path) -> None:
    described(copy, **change)
    with pytest.raises(ArtifactError, match=r"image\.onnx does not map pixels to an embedding as export\.json says"):
        RuntimeCLIP(copy)


def test_a_file_that_was_changed_on_purpose_is_read_without_verification(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json has 2 bytes"):
        RuntimeCLIP(copy)
    RuntimeCLIP(copy, verify=False)


def test_a_runtime_too_old_for_the_opset_is_named(copy: Path, sign: Sign) -> None:
    graph = onnx.load(copy / "text.onnx")
    graph.opset_import[0].version = 99
    onnx.save(graph, copy / "text.onnx")
    described(copy, opset=99)
    sign(copy)
    with pytest.raises(SettingError, match=r"ONNX Runtime [\d.]+ cannot load .*text\.onnx, a graph of opset 99"):
        RuntimeCLIP(copy)


def test_a_folder_that_is_not_there_is_not_called_empty(tmp_path: Path) -> None:
    with pytest.raises(
        ArtifactError, match=r"nowhere is not an existing folder; give the folder that d4c export wrote"
    ):
        RuntimeCLIP(tmp_path / "nowhere")
