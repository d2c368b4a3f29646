"""Fingerprints of everything that d4c makes, to show that a change of structure moved nothing.

    python -m benchmarks.fingerprints.measure --out before.json
    python -m benchmarks.fingerprints.measure --out after.json --against before.json

For the embedded models: SHA-256 of synthesized pixels (every method), of all tensors of quantized models (schemes,
tracks, reconstructions, other options) and of exported graphs, each with few images and iterations on one thread.
Equal bits are expected of the same versions on the same kind of processor only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import d4c
from d4c.settings.presets import Preset
from d4c.storage.hashing import tensors_hash

METHODS = ("d4c", "pgsi", "pgsi+scg", "pgsi+pae", "bns", "pse", "noise", "pink", "leaves")
SCHEMES = ("W8A8", "W4A8", "W4A4")
RECONSTRUCTIONS = ("none", "gptq", "layer", "block", "published")
OPTIONS: dict[str, dict[str, Any]] = {
    "ranges minmax": {"ranges": "minmax"},
    "ranges percentile": {"ranges": "percentile"},
    "importance embedding": {"reconstruction": "block", "importance": "embedding"},
    "importance zeroshot": {"reconstruction": "block", "importance": "zeroshot"},
    "full range": {"full_range": True},
    "sharp images": {"soften": False},
    "override": {"overrides": {"image.blocks.0.*": "W8A8"}},
    "target bits": {"target_bits": 5.0},
    "image tower": {"towers": ("image",)},
    "text tower": {"towers": ("text",)},
}
IMAGES, ITERATIONS, PROMPTS = 16, 6, 40
PRESETS: tuple[Preset, ...] = ("paper", "quick")


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def attempt(work: Callable[[], dict[str, str]]) -> dict[str, str]:
    """What some work gives, or the kind of error that refuses it."""
    try:
        return work()
    except d4c.D4CError as error:
        return {"refused": type(error).__name__}


def synthesized(clip: Any, method: str, preset: Preset) -> dict[str, str]:
    settings: dict[str, Any] = (
        {"images": IMAGES, "iterations": ITERATIONS} if method not in ("noise", "pink", "leaves") else {}
    )
    made = d4c.synthesize(clip, method, preset, seed=0, **settings)
    tensors = {"pixels": made.pixels, "targets": made.targets}
    return {"set": tensors_hash(tensors if made.boxes is None else {**tensors, "boxes": made.boxes})}


def quantized(clip: Any, calibration: Any, scheme: str, export: bool, **settings: Any) -> dict[str, str]:
    if settings.get("reconstruction") not in ("none", "gptq"):
        settings = {"iterations": ITERATIONS, "batch_size": 8, **settings}
    made = d4c.quantize(clip, calibration, scheme, prompts=PROMPT_LIST, seed=0, **settings)
    found = {"state": tensors_hash(made.state_dict())}
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(Path(folder) / "artifact")
        found["weights"] = file_hash(Path(folder) / "artifact" / "model.safetensors")
        if export:
            for unpacked in (False, True):
                d4c.export(Path(folder) / "artifact", Path(folder) / "onnx", check=False, unpacked=unpacked)
                for tower in ("image", "text"):
                    form = f"{tower}, unpacked" if unpacked else tower
                    found[form] = file_hash(Path(folder) / "onnx" / f"{tower}.onnx")
    return found


PROMPT_LIST = tuple(f"a photo of a thing number {i} on a table" for i in range(PROMPTS))


def measure(only: str | None) -> dict[str, dict[str, str]]:
    """All fingerprints by what they are of."""
    found: dict[str, dict[str, str]] = {}

    def add(name: str, work: Callable[[], dict[str, str]]) -> None:
        started = time.perf_counter()
        found[name] = attempt(work)
        print(f"{time.perf_counter() - started:5.1f} s  {name}  {next(iter(found[name].values()))[:16]}", flush=True)

    for model in ("demo-vit", "demo-rn"):
        if only and model != only:
            continue
        clip = d4c.load(model)
        for preset in PRESETS:
            for method in METHODS:
                add(f"{model} synthesis {preset} {method}", partial(synthesized, clip, method, preset))
        images = d4c.synthesize(clip, "leaves", "quick", images=IMAGES, seed=0)
        for track in ("deployable", "paper"):
            for scheme in SCHEMES:
                for kind in RECONSTRUCTIONS:
                    export = track == "deployable" and kind in ("none", "gptq")
                    work = partial(quantized, clip, images, scheme, export, track=track, reconstruction=kind)
                    add(f"{model} {track} {scheme} {kind}", work)
        for name, settings in OPTIONS.items():
            rest = {"reconstruction": "none", **settings}
            scheme = "W8A8" if "full_range" in settings else "W4A8"
            add(f"{model} {scheme} {name}", partial(quantized, clip, images, scheme, False, **rest))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--only", help="one of the embedded models")
    parser.add_argument("--against", type=Path, help="an earlier file; differences are printed and end with status 1")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(args.only)
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{sum(map(len, found.values()))} fingerprints of {len(found)} things in {args.out}")
    if args.against:
        earlier = json.loads(args.against.read_text(encoding="utf-8"))
        moved = [name for name in found if found[name] != earlier.get(name)]
        for name in moved:
            keys = [key for key, value in found[name].items() if value != earlier.get(name, {}).get(key)]
            print(f"differs: {name}: {', '.join(keys)}")
        print(f"{len(found) - len(moved)} of {len(found)} are equal")
        raise SystemExit(bool(moved))


if __name__ == "__main__":
    main()
