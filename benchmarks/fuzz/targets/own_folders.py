"""What d4c writes itself: calibration sets, unfinished work, artifacts and exports."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import d4c
from benchmarks.fuzz.mutators import bytes_anywhere, safetensors_header
from benchmarks.fuzz.targets.target import ROUGH, Target, file_of, resealed
from d4c.calibration.images import CalibrationSet
from d4c.models.clip import CLIP
from d4c.reading.seal import CHECKSUM, write_sealed
from d4c.runtime.exported import read_export
from d4c.storage.files import sha256
from d4c.storage.resumable import Saves


def calibration_sets(clip: CLIP, folder: Path) -> list[Target]:
    saved = folder / "calibration"
    made = d4c.synthesize(clip, "noise", images=2, progress=None)
    made.save(saved)
    record = (saved / "provenance.json").read_bytes()
    tensors = (saved / "calibration.safetensors").read_bytes()

    def read_tensors(data: bytes) -> None:
        (saved / "calibration.safetensors").write_bytes(data)
        changed = json.loads(record) | {"sha256": sha256(saved / "calibration.safetensors")}
        write_sealed(saved / "provenance.json", {key: value for key, value in changed.items() if key != CHECKSUM})
        CalibrationSet.load(saved)

    def read_record(data: bytes) -> None:
        (saved / "calibration.safetensors").write_bytes(tensors)
        resealed(saved / "provenance.json", lambda: CalibrationSet.load(saved).pictures())(data)

    unfinished = folder / "unfinished"
    saves, state = Saves({"job": 1}), {"a": torch.arange(4.0), "n": torch.tensor(3)}
    saves.write({unfinished: state})
    return [
        Target("record of a calibration set", (record,), ROUGH, read_record),
        Target("tensors of a calibration set", (tensors,), (safetensors_header, bytes_anywhere), read_tensors, 0.5),
        Target(
            "unfinished work",
            (unfinished.read_bytes(),),
            (safetensors_header, bytes_anywhere),
            file_of(unfinished, lambda: saves.read(unfinished, state)),
        ),
    ]


def artifacts(clip: CLIP, folder: Path) -> list[Target]:
    saved, export = folder / "artifact", folder / "export"
    images = d4c.synthesize(clip, "noise", images=2, progress=None)
    prompts = [f"thing {i}" for i in range(40)]
    quantized = d4c.quantize(clip, images, "W4A8", reconstruction="none", prompts=prompts, progress=None)
    quantized.save_pretrained(saved)
    d4c.export(saved, export, check=False, progress=None)
    tensors = (saved / "model.safetensors").read_bytes()
    config = (saved / "config.json").read_bytes()
    graph = (export / "image.onnx").read_bytes()

    def read(data: bytes) -> None:
        (saved / "model.safetensors").write_bytes(tensors)
        resealed(saved / "config.json", lambda: d4c.load_quantized(saved, verify=False))(data)

    def read_tensors(data: bytes) -> None:
        (saved / "config.json").write_bytes(config)
        (saved / "model.safetensors").write_bytes(data)
        d4c.load_quantized(saved, verify=False)

    description = (export / "export.json").read_bytes()

    def read_graph(data: bytes) -> None:
        (export / "export.json").write_bytes(description)
        (export / "image.onnx").write_bytes(data)
        read_export(export, verify=False)

    def read_processor(data: bytes) -> None:
        (export / "export.json").write_bytes(description)
        (export / "image.onnx").write_bytes(graph)
        (export / "preprocessor_config.json").write_bytes(data)
        read_export(export, verify=False)

    def read_description(data: bytes) -> None:
        (export / "image.onnx").write_bytes(graph)
        resealed(export / "export.json", lambda: read_export(export, verify=False))(data)

    return [
        Target("config.json of an artifact", (config,), ROUGH, read, 0.2),
        Target("tensors of an artifact", (tensors,), (safetensors_header, bytes_anywhere), read_tensors, 0.1),
        Target("export.json", ((export / "export.json").read_bytes(),), ROUGH, read_description, 0.5),
        Target(
            "preprocessor_config.json of an export",
            ((export / "preprocessor_config.json").read_bytes(),),
            ROUGH,
            read_processor,
            0.5,
        ),
        Target("ONNX graph", (graph,), (bytes_anywhere,), read_graph, 1.0),
    ]
