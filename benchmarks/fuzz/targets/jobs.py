"""Runs and settings: TOML, manifests, metrics, patterns of overrides."""

from __future__ import annotations

import json
import random
import tomllib
from pathlib import Path

import tomli_w

import d4c
from benchmarks.fuzz.mutators import bytes_anywhere, change_tree, deep_json
from benchmarks.fuzz.targets.target import ROUGH, Target, file_of
from d4c.quantization.layer_patterns import alternatives
from d4c.reading.json_file import parse_json
from d4c.run.config import read_toml, run_config
from d4c.run.rows import read_rows
from d4c.storage.manifest import is_done, stage_folder


def runs(folder: Path) -> list[Target]:
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
            file_of(toml, lambda: run_config(read_toml(toml))),
            0.5,
        ),
        Target(
            "manifest of a stage",
            ((folder / "stage" / "manifest.json").read_bytes(),),
            ROUGH,
            file_of(folder / "stage" / "manifest.json", lambda: is_done(folder / "stage", {"a": 1})),
            3.0,
        ),
        Target(
            "metrics of a run", (json.dumps({"rows": rows}).encode(),), ROUGH, file_of(table, lambda: read_rows(table))
        ),
    ]


def settings() -> list[Target]:
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
