"""Working attacks on the readers, each with its verdict: d4c's own error at once, without the memory that it asks for.

Each attack writes files as a stranger would and names how a user would open them. README.md tells them apart by kind.
"""

from __future__ import annotations

import io
import json
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import d4c
from d4c.calibration.images import CalibrationSet
from d4c.calibration.prompts import resolve_prompts
from d4c.errors import D4CError
from d4c.evaluation.load_dataset import load_dataset
from d4c.models.formats.weights import read_weights
from d4c.quantization.config import QuantizeConfig
from d4c.reading.json_file import DEEPEST
from d4c.reading.seal import write_sealed
from d4c.run.config import read_toml, run_config
from d4c.runtime.embeddings import read_entries
from d4c.runtime.exported import read_export
from d4c.storage.manifest import is_done
from d4c.synthesis.config import synthesis_config

MEMORY = 1 << 30
"""Bytes that an attack may take beyond what the process has: the largest of them ask for petabytes."""


@dataclass(frozen=True)
class Attack:
    """Writes files into a folder and opens them; `verdict` is part of the sentence that it ends with."""

    run: Callable[[Path], object]
    verdict: str


def brackets(name: str, read: Callable[[Path], object]) -> Callable[[Path], object]:
    """A file of a million brackets."""

    def run(folder: Path) -> object:
        (folder / name).write_bytes(b"[" * 1_000_000)
        return read(folder / name)

    return run


def token_table(folder: Path) -> object:
    """One stored row of a token table that is a hundred million numbers wide when it is filled: 20 TB."""
    rows = torch.zeros(1, 1).expand(1, 1_000_000).contiguous()
    state = {"token_embedding.weight": rows, "token_embedding.token_ids": torch.zeros(1, dtype=torch.int64)}
    state["text_projection"] = torch.zeros(1_000_000, 1)
    state["visual.proj"] = torch.zeros(1, 1)
    save_file(state, folder / "model.safetensors")
    return d4c.load(folder / "model.safetensors")


def vocabulary(folder: Path) -> object:
    """An architecture with a billion tokens."""
    text = {"width": 64, "layers": 1, "heads": 1, "mlp_width": 64, "vocab_size": 10**9}
    image = {"kind": "vit", "image_size": 32, "patch_size": 8, "width": 64, "layers": 1, "heads": 1, "mlp_width": 64}
    architecture = {"embed_dim": 8, "image": image, "text": text, "mean": [0.5] * 3, "std": [0.5] * 3}
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    files = {"model.safetensors": {"bytes": 0, "sha256": ""}}
    record = {"format_version": 1, "name": "x", "architecture": architecture, "files": files}
    record["files"] = {"model.safetensors": {"bytes": (folder / "model.safetensors").stat().st_size, "sha256": ""}}
    from d4c.storage.files import sha256

    record["files"]["model.safetensors"]["sha256"] = sha256(folder / "model.safetensors")  # type: ignore[index]
    write_sealed(folder / "config.json", record)
    return d4c.load(folder)


def open_clip(**changes: Any) -> Callable[[Path], object]:
    """A configuration of open_clip with a bad number."""

    def run(folder: Path) -> object:
        vision = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8, **changes}
        text = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
        model = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))
        save_file({"a": torch.zeros(1)}, folder / "open_clip_model.safetensors")
        return d4c.load(folder)

    return run


def archive_bomb(folder: Path) -> object:
    """A PyTorch archive whose entry `byteorder` inflates to a gigabyte."""
    torch.save({"a": torch.zeros(2)}, folder / "sound.pt")
    with zipfile.ZipFile(folder / "sound.pt") as old, zipfile.ZipFile(folder / "a.pt", "w") as new:
        for entry in old.infolist():
            if not entry.filename.endswith("byteorder"):
                new.writestr(entry.filename, old.read(entry))
        root = old.namelist()[0].split("/")[0]
        with new.open(zipfile.ZipInfo(f"{root}/byteorder"), "w", force_zip64=True) as stream:
            stream.write(b"little")
        new.getinfo(f"{root}/byteorder").file_size = 1 << 40
    return read_weights(folder / "a.pt")


def index_of(arrays: dict[str, bytes], compress: int = zipfile.ZIP_STORED) -> Callable[[Path], object]:
    """A file of embeddings with arrays as they are given."""

    def run(folder: Path) -> object:
        with zipfile.ZipFile(folder / "a.npz", "w", compress) as archive:
            for name in ("format_version", "model", "paths", "stamps", "embeddings"):
                archive.writestr(f"{name}.npy", arrays.get(name, npy(np.zeros(2))))
        return read_entries(folder / "a.npz", "model", 4)

    return run


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def declared(shape: str) -> bytes:
    """An array of eight bytes that declares another shape."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(8)


def export_with(**changes: Any) -> Callable[[Path], object]:
    """An export.json of sound form with other values and no graphs."""

    def run(folder: Path) -> object:
        names = ("image.onnx", "text.onnx", "tokenizer.json", "preprocessor_config.json")
        files = {name: {"bytes": 0, "sha256": "0" * 64} for name in names}
        sizes: dict[str, Any] = {"opset": 21, "embed_dim": 8, "image_size": 32, "context_length": 77}
        sizes["vocab_size"] = 49408
        sizes |= {"eos_id": None, "begin_id": None, "every_position_counts": False, "logit_bias": None}
        sizes["tokenizer"] = "clip"
        origin: dict[str, Any] = {"artifact": "0" * 64, "model": None, "saturating": []}
        data = {"format_version": 1, "format": "onnx", "name": "x", "logit_scale": 100.0, "files": files}
        write_sealed(folder / "export.json", {**data, **sizes, **origin, **changes})
        return read_export(folder)

    return run


def calibration_with(**provenance: Any) -> Callable[[Path], object]:
    """The record of a calibration set whose pixel statistics are not numbers to divide by."""

    def run(folder: Path) -> object:
        how = {"method": "d4c", "mean": [0.5] * 3, "std": [0.5] * 3, **provenance}
        record = {"format_version": 1, "sha256": "", "provenance": how, "prompts": [], "texts": []}
        write_sealed(folder / "provenance.json", record)
        return CalibrationSet.load(folder)

    return run


def prompts_of(text: str) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        (folder / "a.json").write_text(text)
        return resolve_prompts(folder / "a.json")

    return run


def toml_of(text: str) -> Callable[[Path], object]:
    def run(folder: Path) -> object:
        (folder / "a.toml").write_text(text)
        return run_config(read_toml(folder / "a.toml"))

    return run


DEEP = "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1)
HUGE = "9" * 400

ATTACKS: dict[str, Attack] = {
    # Deep nesting
    "a million brackets in a configuration": Attack(
        brackets("config.json", lambda file: d4c.load_quantized(file.parent)), "is not JSON"
    ),
    "a million brackets in an export": Attack(
        brackets("export.json", lambda file: d4c.load_quantized(file.parent, runtime="onnxruntime")), "is not JSON"
    ),
    "a million brackets in a calibration set": Attack(
        brackets("provenance.json", lambda file: CalibrationSet.load(file.parent)), "is not JSON"
    ),
    "a million brackets in prompts": Attack(brackets("a.json", resolve_prompts), "is not JSON"),
    "a million brackets in a run": Attack(brackets("a.toml", read_toml), "is not TOML"),
    "nested prompts": Attack(prompts_of(DEEP), "is nested more than 64 levels deep"),
    # Sizes that are declared are not sizes that are there
    "a token table that inflates": Attack(token_table, "and the width of the text tower"),
    "a billion tokens": Attack(vocabulary, "vocab_size is 1000000000, expected a whole number from 1 to 1048576"),
    "a petabyte of embeddings": Attack(
        index_of({"embeddings": declared("(1000000000000, 256)")}), "declares the shape"
    ),
    "embeddings of a negative size": Attack(index_of({"embeddings": declared("(-1, 4)")}), "declares the shape"),
    "embeddings that inflate": Attack(
        index_of({"embeddings": npy(np.zeros(1 << 24, np.uint8))}, zipfile.ZIP_DEFLATED), "compressed"
    ),
    "a zip directory that lies": Attack(archive_bomb, "damaged PyTorch archive"),
    "a trillion iterations": Attack(
        lambda _: synthesis_config("d4c", None, {"iterations": 10**12}), "expected from 1 to 1000000"
    ),
    "a trillion steps": Attack(lambda _: QuantizeConfig(iterations=10**12), "from 1 to 1000000"),
    # A record that is read is not a record that is checked
    "an infinite width": Attack(open_clip(width=float("inf")), "width is inf, expected a positive number"),
    "a fraction of a head": Attack(open_clip(head_width=0.5), "head_width is 0.5, expected a whole number"),
    "a number of a thousand bits": Attack(open_clip(layers=10**300), "expected"),
    "an image without a side": Attack(export_with(image_size=0), "image_size is 0, expected a whole number from 1"),
    "an image as large as a town": Attack(export_with(image_size=10**7), "image_size is 10000000"),
    "a negative context": Attack(export_with(context_length=-5), "context_length is -5"),
    "an end of text beyond the vocabulary": Attack(export_with(eos_id=10**7), "eos_id is 10000000"),
    "a logit scale that is no number": Attack(export_with(logit_scale=float("nan")), "logit_scale is nan"),
    "a name that clears the screen": Attack(export_with(name="\x1b[2J"), "expected a printable string"),
    "pixels divided by zero": Attack(calibration_with(std=[0, 0, 0]), "provenance.std[0] is 0"),
    "an infinite mean": Attack(calibration_with(mean=[float("inf")] * 3), "provenance.mean[0] is inf"),
    "a seed of four hundred digits": Attack(
        toml_of(f'model = "demo-vit"\n[synthesis]\nseed = {HUGE}'), "expected from 0 to 2^63 - 1"
    ),
    "a list for the name of a method": Attack(
        toml_of('model = "demo-vit"\n[synthesis]\nmethod = ["d4c"]'), "expected a string"
    ),
    "a table for a preset": Attack(toml_of('model = "demo-vit"\n[preset]\nquick = 1'), "is unknown"),
    "a hexadecimal number without end": Attack(
        toml_of(f'model = "demo-vit"\n[quantization]\nseed = 0x{"f" * 5000}'), "a number of 20000 bits"
    ),
    # Programs
    "a pattern that backtracks for ever": Attack(
        lambda _: QuantizeConfig(overrides={"(.*.*)*x": "W4A8"}), "not a regular expression"
    ),
    # Paths
    "the home of nobody": Attack(lambda _: load_dataset("folder:~nobodyuser/x"), "cannot be used"),
    "a zero byte in a path": Attack(lambda _: load_dataset("folder:a\x00b"), "does not exist"),
}


@contextmanager
def limited_memory() -> Iterator[None]:
    """Make allocations beyond the allowance fail."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("name", ATTACKS)
def test_the_verdict(name: str, tmp_path: Path) -> None:
    attack = ATTACKS[name]
    with pytest.raises(D4CError) as caught, limited_memory():
        attack.run(tmp_path)
    message = str(caught.value)
    assert attack.verdict in message
    assert message.endswith(".")
    assert message.isprintable()


def test_a_manifest_of_brackets_is_a_stage_that_is_not_done(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"[" * 1_000_000)
    assert not is_done(tmp_path, {})
