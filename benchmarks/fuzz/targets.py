"""What is attacked: each reader of files and settings, with sound inputs, ways to change them, and how to read them."""

from __future__ import annotations

import json
import random
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tomli_w
import torch
from safetensors.torch import save_file

import d4c
from benchmarks.fuzz.mutators import (
    Mutate,
    bytes_anywhere,
    change_tree,
    deep_json,
    json_values,
    pickle_opcodes,
    safetensors_header,
    zip_entries,
)
from d4c.calibration.images import CalibrationSet
from d4c.calibration.prompts import resolve_prompts
from d4c.evaluation.load_dataset import load_dataset
from d4c.evaluation.readers.cifar import read_inert
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig, TextConfig, ViTConfig
from d4c.models.formats.weights import read_weights
from d4c.quantization.layer_patterns import alternatives
from d4c.reading.json_file import parse_json
from d4c.reading.seal import CHECKSUM, write_sealed
from d4c.run.config import read_toml, run_config
from d4c.run.job import read_rows
from d4c.runtime.embeddings import Entry, Stamp, read_entries, write_entries
from d4c.runtime.exported import read_export
from d4c.storage.files import sha256
from d4c.storage.manifest import is_done, stage_folder
from d4c.storage.resumable import Saves

ROUGH: tuple[Mutate, ...] = (json_values, json_values, json_values, json_values, json_values, bytes_anywhere, deep_json)
"""For JSON: mostly values, so that what lies behind the parser is reached."""


@dataclass(frozen=True)
class Target:
    """A reader.

    Args:
        name: What it reads.
        seeds: Sound inputs.
        mutators: Ways to change them.
        read: Reads a changed input; raises D4CError, or returns.
        share: Inputs relative to the other targets; slow readers get fewer.
    """

    name: str
    seeds: tuple[bytes, ...]
    mutators: tuple[Mutate, ...]
    read: Callable[[bytes], object]
    share: float = 1.0


def tiny_clip() -> CLIP:
    """A vision transformer with random weights, small enough to be read a thousand times."""
    torch.manual_seed(0)
    text = TextConfig(16, 1, 2, 32, context_length=8, vocab_size=49408)
    return CLIP(CLIPConfig(8, ViTConfig(16, 8, 16, 1, 2, 32), text), "tiny").eval().requires_grad_(False)


def targets(folder: Path) -> list[Target]:
    """Every target, with its files in a folder."""
    clip = tiny_clip()
    return [
        Target("JSON", (b'{"a": [1, 2.5, "x", null]}',), (*ROUGH, bytes_anywhere), _parse, 4),
        *_checkpoints(clip, folder),
        *_calibration_sets(clip, folder),
        *_artifacts(clip, folder),
        *_runs(folder),
        *_data(folder),
        *_settings(),
    ]


def _parse(data: bytes) -> None:
    parse_json(data, "a.json", d4c.errors.DataError, "give another")


def _file(path: Path, read: Callable[[], object]) -> Callable[[bytes], object]:
    """Write the input to a file and read it."""

    def attempt(data: bytes) -> None:
        path.write_bytes(data)
        read()

    return attempt


def _resealed(path: Path, read: Callable[[], object]) -> Callable[[bytes], object]:
    """Write the input with a checksum that fits, as whoever damages a file on purpose would do, and read it."""

    def attempt(data: bytes) -> None:
        try:
            tree = json.loads(data)
            if isinstance(tree, dict):
                write_sealed(path, {key: value for key, value in tree.items() if key != CHECKSUM})
            else:
                path.write_bytes(data)
        except (ValueError, RecursionError):
            path.write_bytes(data)
        read()

    return attempt


def _checkpoints(clip: CLIP, folder: Path) -> list[Target]:
    native = folder / "native"
    clip.save_pretrained(native)
    sound = (native / "config.json").read_bytes()
    foreign = folder / "foreign"
    foreign.mkdir()
    shutil.copy(native / "model.safetensors", foreign / "model.safetensors")
    huggingface = {
        "model_type": "clip",
        "projection_dim": 8,
        "vision_config": {
            "image_size": 16,
            "patch_size": 8,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "hidden_act": "quick_gelu",
            "layer_norm_eps": 1e-5,
        },
        "text_config": {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 8,
            "vocab_size": 49408,
            "eos_token_id": 49407,
        },
    }
    pixels = {
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"shortest_edge": 16},
        "crop_size": {"height": 16, "width": 16},
        "do_resize": True,
        "do_center_crop": True,
        "do_normalize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "resample": 3,
    }
    both = json.dumps({"config": huggingface, "pixels": pixels}).encode()
    openclip = {
        "model_cfg": {
            "embed_dim": 8,
            "quick_gelu": True,
            "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
            "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        },
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"},
    }
    resnet = json.loads(json.dumps(openclip))
    resnet["model_cfg"]["vision_cfg"] |= {"layers": [1, 1, 1, 1], "image_size": 64}
    open_folder = folder / "openclip"
    open_folder.mkdir()
    shutil.copy(native / "model.safetensors", open_folder / "open_clip_model.safetensors")
    index = json.dumps({"weight_map": {"a": "model.safetensors", "b": "model.safetensors"}}).encode()
    sharded = folder / "sharded"
    sharded.mkdir()
    shutil.copy(native / "model.safetensors", sharded / "model.safetensors")
    (sharded / "config.json").write_text(json.dumps(huggingface))

    def read_foreign(data: bytes) -> None:
        try:
            parts = json.loads(data)
            config, processor = parts["config"], parts["pixels"]
        except (ValueError, KeyError, TypeError, RecursionError):
            (foreign / "config.json").write_bytes(data)
        else:
            (foreign / "config.json").write_text(json.dumps(config))
            (foreign / "preprocessor_config.json").write_text(json.dumps(processor))
        d4c.load(foreign)

    weights = folder / "weights"
    few = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(4, dtype=torch.int64), "c": torch.ones(())}
    save_file(few, weights, metadata={"format": "pt"})
    archive = folder / "archive"
    torch.save({"state_dict": {**few, "d": few["a"].T}}, archive)
    return [
        Target("config.json of d4c", (sound,), ROUGH, _resealed(native / "config.json", lambda: d4c.load(native)), 0.3),
        Target("Hugging Face's configurations", (both,), ROUGH, read_foreign, 1.0),
        Target(
            "open_clip's configuration",
            (json.dumps(openclip).encode(), json.dumps(resnet).encode()),
            ROUGH,
            _file(open_folder / "open_clip_config.json", lambda: d4c.load(open_folder)),
        ),
        Target(
            "index of shards",
            (index,),
            ROUGH,
            _file(sharded / "model.safetensors.index.json", lambda: d4c.load(sharded)),
        ),
        Target(
            "safetensors",
            (weights.read_bytes(),),
            (safetensors_header, bytes_anywhere),
            _file(weights, lambda: read_weights(weights)),
            2.0,
        ),
        Target(
            "PyTorch archive",
            (archive.read_bytes(),),
            (zip_entries, zip_entries, bytes_anywhere),
            _file(archive, lambda: read_weights(archive)),
        ),
    ]


def _calibration_sets(clip: CLIP, folder: Path) -> list[Target]:
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
        _resealed(saved / "provenance.json", lambda: CalibrationSet.load(saved).pictures())(data)

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
            _file(unfinished, lambda: saves.read(unfinished, state)),
        ),
    ]


def _artifacts(clip: CLIP, folder: Path) -> list[Target]:
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
        _resealed(saved / "config.json", lambda: d4c.load_quantized(saved, verify=False))(data)

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
        _resealed(export / "export.json", lambda: read_export(export, verify=False))(data)

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


def _runs(folder: Path) -> list[Target]:
    toml = folder / "run.toml"
    sound = run_config({"model": "demo-vit", "quantization": {"overrides": {"image.*": "W8A8"}}}).to_toml().encode()
    with stage_folder(folder / "stage", "stage", {"a": 1}) as new:
        (new / "file").write_text("x")
    interval = {"value": 50.0, "low": 40.0, "high": 60.0}
    metrics = {"dataset": "demo", "count": 2, "top1": interval, "top5": interval, "fidelity": None, "seconds": 1.0}
    close = {"cosine": 1.0, "centered_cosine": 1.0, "text_cosine": 1.0, "same_class": interval, "kl": 0.0}
    rows = [{"name": "float", "scheme": None, "bytes": 5, "metrics": metrics}]
    rows.append({"name": "d4c", "scheme": "W4A8", "bytes": 5, "metrics": {**metrics, "fidelity": close}})
    table = folder / "metrics.json"

    def toml_values(data: bytes, rng: random.Random) -> bytes:
        tree = tomllib.loads(data.decode())
        changed = change_tree(tree, rng)
        try:
            return tomli_w.dumps(changed).encode("utf-8", "surrogatepass")
        except (AttributeError, TypeError, ValueError):  # null has no form in TOML
            return bytes_anywhere(data, rng)

    return [
        Target(
            "TOML of a run",
            (sound,),
            (toml_values, toml_values, bytes_anywhere, deep_json),
            _file(toml, lambda: run_config(read_toml(toml))),
            0.5,
        ),
        Target(
            "manifest of a stage",
            ((folder / "stage" / "manifest.json").read_bytes(),),
            ROUGH,
            _file(folder / "stage" / "manifest.json", lambda: is_done(folder / "stage", {"a": 1})),
            3.0,
        ),
        Target(
            "metrics of a run", (json.dumps({"rows": rows}).encode(),), ROUGH, _file(table, lambda: read_rows(table))
        ),
    ]


def _data(folder: Path) -> list[Target]:
    index, prompts, pickled = folder / "index.npz", folder / "prompts.json", folder / "pickle"
    row = np.array([1, 0, 0, 0], np.float32)
    write_entries(index, "model", {"a.png": Entry(Stamp(1, 2), row), "b.png": Entry(Stamp(3, 4), row)})
    names = json.dumps({"classnames": ["cat", "dog"], "templates": ["a photo of a {}."]}).encode()
    batch = b"\x80\x02}q\x00(X\x06\x00\x00\x00labelsq\x01]q\x02(K\x01K\x02eX\x04\x00\x00\x00dataq\x03)u."
    imagenet = folder / "imagenet"
    (imagenet / "val" / "n01440764").mkdir(parents=True)
    (imagenet / "val" / "n01440764" / "a.JPEG").write_bytes(b"")
    classes = json.dumps({"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}).encode()
    return [
        Target(
            "file of embeddings",
            (index.read_bytes(),),
            (zip_entries, bytes_anywhere),
            _file(index, lambda: read_entries(index, "model", 4)),
        ),
        Target("prompts", (names,), ROUGH, _file(prompts, lambda: resolve_prompts(prompts))),
        Target(
            "class index of ImageNet",
            (classes,),
            ROUGH,
            _file(imagenet / "imagenet_class_index.json", lambda: load_dataset(f"imagenet1k:{imagenet}")),
        ),
        Target(
            "pickle of CIFAR",
            (batch,),
            (pickle_opcodes, bytes_anywhere),
            _file(pickled, lambda: read_inert(pickled)),
            4.0,
        ),
    ]


def _settings() -> list[Target]:
    overrides = (b"image.blocks.*.{add,pool}", b"text.blocks.[0-9].mlp.fc?", b"(.*.*)*x")

    def read_pattern(data: bytes) -> None:
        alternatives(data.decode("utf-8", "surrogateescape"))

    def read_settings(data: bytes) -> None:
        tree = parse_json(data, "settings", d4c.errors.SettingError, "")
        if isinstance(tree, dict):
            run_config(tree)

    sound = run_config({"model": "demo-vit"}).to_dict()
    return [
        Target("pattern of an override", overrides, (bytes_anywhere,), read_pattern, 3.0),
        Target("settings", (json.dumps(sound).encode(),), ROUGH, read_settings, 1.0),
    ]
