"""Every layout: sealed, of graphs that our own reader passes, made from the artifact that they name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from d4c.deployment.targets import DEFAULT_TARGET, TARGETS
from d4c.errors import ArtifactError
from d4c.quantization.artifact.folder import WEIGHTS
from d4c.reading.onnx_graph import ORIGIN, read_summary
from d4c.reading.seal import check_file, check_seal
from d4c.storage.files import sha256

LAYOUTS = [name for name in TARGETS if name != DEFAULT_TARGET]

ExportFor = Callable[..., Path]


@pytest.mark.parametrize("target", LAYOUTS)
def test_every_file_is_sealed(target: str, export_for: ExportFor) -> None:
    folder = export_for(target)
    description = json.loads((folder / "export.json").read_text())
    check_seal(description, "export.json", ArtifactError, "")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(description["files"]) == files - {"export.json", "manifest.json"}
    for name, entry in description["files"].items():
        check_file(folder / name, entry, ArtifactError, "")
    assert description["format"] == target


@pytest.mark.parametrize("target", LAYOUTS)
def test_graphs_hold_what_d4c_writes(target: str, export_for: ExportFor, small: Path) -> None:
    graphs = [read_summary(path) for path in export_for(target).rglob("*.onnx")]
    assert {graph.metadata[ORIGIN] for graph in graphs} <= {sha256(small / WEIGHTS)}
    assert all(graph.inputs and graph.outputs for graph in graphs)
