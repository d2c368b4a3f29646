"""Stages of a run that are done once: a folder counts as done if its manifest matches inputs, settings and files."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from d4c.files import atomic_folder, sha256, write_json

MANIFEST = "manifest.json"


def fingerprint(data: Any) -> str:
    """SHA-256 of JSON-ready data, keys in order."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def is_done(folder: Path, key: dict[str, Any]) -> bool:
    """Whether a stage's folder was completed with this key (its inputs and settings) and is unchanged since."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["key"] != fingerprint(key):
            return False
        files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {MANIFEST}
        return files == set(manifest["files"]) and all(sha256(folder / n) == h for n, h in manifest["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def outcome(folder: Path) -> str:
    """Fingerprint of what a stage wrote, to be an input of the next one."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return fingerprint([manifest["key"], manifest["files"]])


def seconds(folder: Path) -> float:
    """How long a stage took when it was done."""
    return float(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["seconds"])


@contextmanager
def stage_folder(folder: Path, key: dict[str, Any]) -> Iterator[Path]:
    """Yield a temporary folder for a stage to fill; it gets its manifest and takes the place of `folder` at the end."""
    # What a killed process left: its folder, and the one that a writer in it was about to put in place.
    for pattern in (f".{folder.name}.*", f"..{folder.name}.*"):
        for left_over in folder.parent.glob(pattern):
            shutil.rmtree(left_over, ignore_errors=True)
    started = time.perf_counter()
    with atomic_folder(folder) as new:
        yield new
        files = {str(p.relative_to(new)): sha256(p) for p in sorted(new.rglob("*")) if p.is_file()}
        manifest: dict[str, Any] = {"key": fingerprint(key), "inputs_and_settings": key, "files": files}
        manifest["seconds"] = round(time.perf_counter() - started, 2)
        write_json(new / MANIFEST, manifest)
