"""Folders that commands write: only an earlier result of the same kind is replaced, and that is checked first."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from d4c.errors import ArtifactError
from d4c.storage.files import atomic_folder
from d4c.storage.locks import LOCK, locked
from d4c.storage.manifest import LITTER, changed_file, read_manifest, refuse_foreign, write_manifest
from d4c.storage.siblings import check_writable, is_abandoned, restore

PAGE = r'<!doctype html>.*<meta name="generator" content="d4c'
"""How the pages that d4c writes begin."""
BEGINNING = 1024
"""Bytes of a file that are looked at."""


def check_output(folder: Path, kind: str) -> None:
    """Make sure, before any work, that a result can be written to a folder and replaces nothing but an earlier one.

    Args:
        folder: Where the result will be written; it may be absent or empty.
        kind: What the result is, as in "calibration set".

    Raises:
        ArtifactError: The folder cannot be written or replaced, or it holds something that d4c did not write.
    """
    real = Path(os.path.realpath(folder))
    _refuse_unmovable(folder, real)
    check_writable(folder)
    restore(real)
    if is_empty(real):
        return
    manifest = read_manifest(real) if real.is_dir() else None
    if manifest is None or manifest["kind"] != kind:
        article = "an" if kind[0] in "aeiou" else "a"
        raise ArtifactError(f"{folder} exists and is not {article} {kind}; choose another folder or remove it.")
    refuse_foreign(folder)
    if (name := changed_file(real)) is not None:
        raise ArtifactError(
            f"{folder} holds {name}, which was changed since d4c wrote it; move it away or choose another folder."
        )


def check_output_file(file: Path | None, beginning: str) -> None:
    """Make sure, before any work, that a file can be written and replaces only an earlier result, if one was asked for.

    Args:
        file: The file.
        beginning: Regular expression for how such a result begins.

    Raises:
        ArtifactError: The file cannot be written, or holds something else.
    """
    if file is None:
        return
    if file.is_dir():
        raise ArtifactError(f"{file} is a folder, expected the name of a file; name one in it.")
    if file.exists() and not file.is_file():
        raise ArtifactError(f"{file} is a pipe or a device, which a result cannot replace; name a file.")
    check_writable(file)
    if not file.exists():
        return
    with file.open("rb") as stream:
        start = stream.read(BEGINNING).decode("latin-1")
    if start and re.match(beginning, start, re.DOTALL) is None:
        raise ArtifactError(f"{file} holds something that this command did not write; name another file or remove it.")


@contextmanager
def output_folder(folder: Path, kind: str) -> Iterator[Path]:
    """Yield a temporary folder to fill; it gets its manifest and takes the place of `folder` at the end.

    Args:
        folder: Where the result appears, whole or not at all; an earlier one of the same kind is replaced.
        kind: What the result is, as in "calibration set".

    Raises:
        ArtifactError: As `check_output` does, at the start and before anything is replaced.
    """
    check_output(folder, kind)
    with atomic_folder(folder) as new:
        yield new
        write_manifest(new, kind)
        check_output(folder, kind)


@contextmanager
def reserved(folder: Path) -> Iterator[None]:
    """Keep other processes from writing the same folder, or its unfinished work, meanwhile.

    Raises:
        SettingError: Another process is doing so.
    """
    real = Path(os.path.realpath(folder))
    real.parent.mkdir(parents=True, exist_ok=True)
    with locked(real.with_name(f".{real.name}{LOCK}"), folder):
        yield


def unfinished_beside(folder: Path) -> Path:
    """Where unfinished work on a folder is kept: the path of a folder, or the beginning of the paths of files."""
    real = Path(os.path.realpath(folder))
    return real.with_name(f"{real.name}.unfinished")


def is_empty(folder: Path) -> bool:
    """Whether a folder is absent or holds nothing but what a killed process left."""
    if not os.path.lexists(folder):
        return True
    return folder.is_dir() and all(entry.name in LITTER or is_abandoned(entry) for entry in folder.iterdir())


def _refuse_unmovable(folder: Path, real: Path) -> None:
    """Refuse what cannot be replaced as a whole."""
    with suppress(FileNotFoundError):  # the current folder may have been removed
        here = Path(os.path.realpath(os.getcwd()))
        if real in (here, *here.parents):
            raise ArtifactError(
                f"{folder} is or holds the current folder, which a result cannot replace; name a folder in it."
            )
    if os.path.ismount(real):
        raise ArtifactError(f"{folder} is a mount point, which a result cannot replace; name a folder in it.")
