"""Writes files and folders atomically: a reader sees the old one or the complete new one, never half of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from d4c.errors import ArtifactError, D4CError


def fsync_path(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling to write; on success it is flushed and renamed to `path`, else it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        fsync_path(temporary)
        temporary.replace(path)
        fsync_path(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling folder to fill; on success it replaces `path`, else it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                file.chmod(0o644)  # some libraries write files that only their owner can read
            fsync_path(file)
        temporary.chmod(0o755)
        fsync_path(temporary)
        if path.exists():
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old.")) / path.name
            path.replace(old)
            try:
                temporary.replace(path)
            except BaseException:
                old.replace(path)
                raise
            finally:
                shutil.rmtree(old.parent)
        else:
            temporary.replace(path)
        fsync_path(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content as hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(path: Path, error: type[D4CError], advice: str) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        error: Class of the exception to raise.
        advice: What to do about the error, as the end of its sentence.

    Returns:
        The content of the file.

    Raises:
        D4CError: Of class `error`, if the file cannot be read, is not JSON or is nested too deeply to parse.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"{path} cannot be read ({problem.strerror}); {advice}.") from None
    except (ValueError, RecursionError):
        raise error(f"{path} is not JSON; {advice}.") from None


def write_json(path: Path, data: Any) -> None:
    """Write data as indented JSON, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def refuse_occupied(folder: Path, is_ours: Callable[[Path], bool], expected: str) -> None:
    """Make sure that writing to a folder replaces nothing but an earlier result of the same kind.

    Args:
        folder: Where the result will be written; it may be absent or empty.
        is_ours: Whether a folder holds an earlier result.
        expected: What such a result is called, with its article, as in "an export".

    Raises:
        ArtifactError: The folder holds something else.
    """
    empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not empty and not is_ours(folder):
        raise ArtifactError(f"{folder} exists and is not {expected}; choose another folder or remove it.")
