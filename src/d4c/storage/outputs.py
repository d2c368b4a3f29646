"""Folders that commands write: only an earlier result of the same kind is replaced, and that is checked first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from d4c.errors import ArtifactError
from d4c.storage.files import atomic_folder
from d4c.storage.locks import LOCK, locked
from d4c.storage.manifest import LITTER, changed_file, read_manifest, refuse_foreign, write_manifest
from d4c.storage.siblings import check_writable, is_abandoned, restore


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


def check_output_file(file: Path | None) -> None:
    """Make sure, before any work, that a file can be written, if one was asked for; raises ArtifactError otherwise."""
    if file is None:
        return
    if file.is_dir():
        raise ArtifactError(f"{file} is a folder, expected the name of a file; name one in it.")
    check_writable(file)


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
