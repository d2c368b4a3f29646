"""Manifests: which files of a folder d4c wrote, by their hashes, and when a stage of a run counts as done.

A folder is ours only if its manifest lists everything in it; what somebody else put there is named, never deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any

from d4c.errors import ArtifactError
from d4c.reading.json_file import read_json
from d4c.reading.schema import Maybe, Number, Record, Table, Text, check
from d4c.storage.files import atomic_folder, sha256, write_json
from d4c.version import __version__

MANIFEST = "manifest.json"
ADVICE = "remove the folder and run again"
CONTENT = Record(
    {"kind": Text(), "versions": Table(Maybe(Text())), "files": Table(Text(64))},
    {"key": Text(), "seconds": Number(0, 1e9)},
)
"""What a manifest holds."""
LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")
"""What systems put into every folder that somebody looks at."""


def fingerprint(data: Any) -> str:
    """SHA-256 of JSON-ready data, keys in order."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str | None]:
    """Versions that a result depends on."""
    try:
        torch: str | None = version("torch")
    except PackageNotFoundError:
        torch = None
    return {"d4c": __version__, "torch": torch, "python": platform.python_version()}


def write_manifest(folder: Path, kind: str, **more: Any) -> None:
    """List every file of a folder.

    Args:
        folder: The folder.
        kind: What it is, as in "calibration set".
        **more: What else is to be known about it, JSON-ready.
    """
    files = {name: sha256(folder / name) for name in sorted(_names(folder)) if name != MANIFEST}
    write_json(folder / MANIFEST, {"kind": kind, "versions": versions(), **more, "files": files})


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What `write_manifest` wrote; None where it is missing or damaged."""
    try:
        manifest = read_json(folder / MANIFEST, ArtifactError, ADVICE)
        check(manifest, CONTENT, str(folder / MANIFEST), ArtifactError, ADVICE)
    except ArtifactError:
        return None
    return dict(manifest)


def foreign_entry(folder: Path) -> str | None:
    """The first entry below a folder that its manifest does not list; None if there is none."""
    manifest = read_manifest(folder)
    listed = {MANIFEST, *manifest["files"]} if manifest else set()
    return min(_names(folder) - listed, default=None)


def changed_file(folder: Path) -> str | None:
    """The first file that is not as the manifest says; None if there is none."""
    manifest = read_manifest(folder)
    files = manifest["files"] if manifest else {}
    return min((n for n, digest in files.items() if _is_changed(folder / n, digest)), default=None)


def is_done(folder: Path, key: dict[str, Any]) -> bool:
    """Whether a stage's folder was completed with this key (its inputs and settings), its files unchanged since."""
    manifest = read_manifest(folder)
    if manifest is None or manifest.get("key") != fingerprint(key):
        return False
    return all((folder / name).is_file() for name in manifest["files"]) and changed_file(folder) is None


def outcome(folder: Path) -> str:
    """Fingerprint of what a stage wrote, to be an input of the next one."""
    manifest = _manifest(folder)
    return fingerprint([manifest["key"], manifest["files"]])


def seconds(folder: Path) -> float:
    """How long a stage took when it was done."""
    return float(_manifest(folder)["seconds"])


def versions_of(folder: Path) -> dict[str, str | None]:
    """The versions that made a stage, which a later version may have resumed from."""
    return dict(_manifest(folder)["versions"])


@contextmanager
def stage_folder(folder: Path, kind: str, key: dict[str, Any]) -> Iterator[Path]:
    """Yield a temporary folder for a stage to fill; it gets its manifest and takes the place of `folder` at the end.

    Raises:
        ArtifactError: `folder` holds something that its manifest does not list.
    """
    refuse_foreign(folder)
    started = time.perf_counter()
    with atomic_folder(folder) as new:
        yield new
        more = {"key": fingerprint(key), "inputs_and_settings": key}
        write_manifest(new, kind, **more, seconds=round(time.perf_counter() - started, 2))
        refuse_foreign(folder)


def refuse_foreign(folder: Path) -> None:
    """Raise ArtifactError if a folder holds something that its manifest does not list."""
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder} is a file, expected a folder; move it away or choose another output.")
    if (name := foreign_entry(folder)) is not None:
        raise ArtifactError(
            f"{folder} holds {name}, which d4c did not write there; move it away or choose another output."
        )


def _manifest(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    assert manifest is not None, "a stage that is done has a manifest"
    return manifest


def _is_changed(file: Path, digest: str) -> bool:
    return file.is_file() and sha256(file) != digest


def _names(folder: Path) -> set[str]:
    """Everything below a folder that is not a folder with something in it, as relative paths with slashes.

    A link to a folder counts as a file.
    """
    names: set[str] = set()
    if not folder.exists():
        return names
    for parent, folders, files in os.walk(folder, onerror=_refuse_unreadable):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        entries = [name for name in (*files, *links) if name not in LITTER]
        is_empty = not folders and not files and parent != str(folder)
        for path in [parent] if is_empty else [os.path.join(parent, name) for name in entries]:
            names.add(PurePath(os.path.relpath(path, folder)).as_posix())
    return names


def _refuse_unreadable(error: OSError) -> None:
    raise error
