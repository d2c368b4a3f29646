"""Writes files and folders atomically: a reader sees the old one or the complete new one, never half of it."""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from d4c.errors import system_error
from d4c.reading.bounded import read_up_to
from d4c.storage.siblings import NEW, put_in_place, temporary_sibling

WINDOWS = os.name == "nt"
NO_FSYNC = (errno.EACCES, errno.EINVAL, errno.ENOTSUP)
"""What network file systems answer for folders that they do not flush."""

LARGEST_TEXT = 1 << 30
"""Largest size in bytes of a text file; captions of millions of pictures stay below."""


def fsync_path(path: Path) -> None:
    """Flush a file, or a folder where the system can, to the disk."""
    is_folder = path.is_dir()
    if is_folder and WINDOWS:
        return
    try:
        # Windows flushes only what is open for writing.
        descriptor = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not is_folder or error.errno not in NO_FSYNC:
            raise


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a path to write; on success the file is flushed and takes the place of `path`, else nothing changes.

    Errors of the system name `path`, also those that other libraries wrap.
    """
    target = Path(os.path.realpath(path))
    with _naming(path), temporary_sibling(target) as folder:
        temporary = folder / target.name
        yield temporary
        _finish(temporary, folder)
        temporary.replace(target)
        fsync_path(target.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; on success it takes the place of `path`, else nothing changes.

    Errors of the system name `path`, also those that other libraries wrap.
    """
    target = Path(os.path.realpath(path))
    with _naming(path), temporary_sibling(target) as folder:
        yield folder
        for file in folder.rglob("*"):
            _finish(file, folder)
        fsync_path(folder)
        put_in_place(folder, target)
        fsync_path(target.parent)


def _finish(file: Path, folder: Path) -> None:
    """Flush a file; its mode follows the umask, as the folder's does, though some libraries write for one user only."""
    if file.is_file():
        file.chmod(folder.stat().st_mode & 0o666)
    fsync_path(file)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let errors of the system that name a temporary file, or none, name `path`."""
    try:
        yield
    except Exception as error:
        problem = system_error(error)
        if problem is None or problem.errno is None or NEW not in str(problem.filename or NEW):
            raise
        raise OSError(problem.errno, problem.strerror, str(path)) from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content as hex digits; raises OSError for a pipe or a device."""
    with _open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 with a mark at its start, as shells and editors of Windows write it.

    Raises:
        OSError: The file cannot be read, is a pipe or a device, or is too large.
        UnicodeDecodeError: It is no such text.
    """
    with _open_regular(path) as stream:
        content = read_up_to(stream, LARGEST_TEXT)
    if len(content) > LARGEST_TEXT:
        raise OSError(errno.EFBIG, f"more than {LARGEST_TEXT >> 20} MiB", str(path))
    is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return content.decode("utf-16" if is_wide else "utf-8-sig")


def _open_regular(path: Path) -> BufferedReader:
    """Open a file to read it; a pipe would wait for somebody to write, and a device may have no end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path.open("rb")


def write_json(path: Path, data: Any) -> None:
    """Write data as indented JSON, atomically; names that are not UTF-8 become escapes, which JSON readers undo."""
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
