"""Hidden siblings: where a file or a folder is made before it takes its place, and what killed processes leave of them.

Whoever makes one holds a lock on it as long as it lives, so that one without a holder is nobody's.
"""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from d4c.errors import ArtifactError
from d4c.storage.locks import LOCK, same_file, try_lock

NEW, OLD = ".d4c-new", ".d4c-old"
"""How the name of a sibling ends that is being made, and of one that was moved aside."""
ABANDONED = 24 * 3600.0
"""Age in seconds from which a sibling counts as nobody's where a folder cannot be locked."""
AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Of Linux's <fcntl.h> and <linux/fs.h>."""


@contextmanager
def temporary_sibling(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`; at the end it is removed, with all that is in it by then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    restore(path)
    remove_leftovers(path.parent, re.escape(path.name))
    folder, descriptor = _make(path)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def put_in_place(folder: Path, path: Path) -> None:
    """Rename a folder to `path`, where an earlier one may be; that one then is at `folder`, or gone.

    Where the system cannot exchange two folders, the earlier one is moved aside first. `restore` brings it back if the
    process is killed before the new one is in its place.
    """
    if not path.exists():
        folder.replace(path)
    elif not exchange(folder, path):
        aside = _sibling(path, OLD)
        path.replace(aside)
        try:
            folder.replace(path)
        except BaseException:
            aside.replace(path)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; false where the system cannot."""
    if sys.platform != "linux":
        return False
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    return bool(renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0)


def restore(path: Path) -> None:
    """Put back a folder that a killed process moved aside without putting the new one in its place."""
    if not os.path.lexists(path):
        for aside in _siblings(path.parent, re.escape(path.name), OLD):
            aside.replace(path)
            return


def remove_leftovers(parent: Path, names: str) -> None:
    """Remove what killed processes left.

    Args:
        parent: Folder to look in.
        names: Regular expression for the names of what was being written.
    """
    for folder in _siblings(parent, names, NEW):
        _remove_unless_held(folder)
    for aside in _siblings(parent, names, OLD):
        if os.path.lexists(parent / aside.name[1 : -len(f".00000000{OLD}")]):
            shutil.rmtree(aside, ignore_errors=True)


def is_abandoned(path: Path) -> bool:
    """Whether only a killed process can have left something: a lock or an unfinished sibling that nobody holds.

    What was moved aside is not: it may be the only one of its kind.
    """
    if re.fullmatch(rf"(\..+)?{LOCK}|\..+\.[0-9a-f]{{8}}{NEW}", path.name, re.DOTALL) is None:
        return False
    descriptor = _open(path)
    if descriptor is None:
        return True
    is_held = try_lock(descriptor) is False
    os.close(descriptor)
    return not is_held


def check_writable(path: Path, advice: str = "choose another path") -> None:
    """Make sure, before any work, that a file or a folder can be made at a path; nothing is left there.

    Args:
        path: The path.
        advice: What to do otherwise, as the end of a sentence.

    Raises:
        ArtifactError: It cannot.
    """
    try:
        real = Path(os.path.realpath(path))
        parent = real.parent
        while not parent.exists():
            parent = parent.parent
        probe = _sibling(parent / real.name, NEW)
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be written ({error.strerror}); {advice}.") from None


def _sibling(path: Path, end: str) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{end}")


def _siblings(parent: Path, names: str, end: str) -> list[Path]:
    """The siblings of everything in a folder whose name matches."""
    pattern = re.compile(rf"\.({names})\.[0-9a-f]{{8}}{re.escape(end)}", re.DOTALL)
    with suppress(OSError):
        return [entry for entry in parent.iterdir() if pattern.fullmatch(entry.name)]
    return []


def _make(path: Path) -> tuple[Path, int | None]:
    """A new sibling, and the descriptor that holds its lock."""
    while True:
        folder = _sibling(path, NEW)
        try:
            folder.mkdir()
        except OSError as error:
            # Nobody knows the name of the sibling.
            raise OSError(error.errno, error.strerror, str(path)) from None
        descriptor = _open(folder)
        if descriptor is None:
            return folder, None
        if try_lock(descriptor) is not False and same_file(descriptor, folder):
            return folder, descriptor
        os.close(descriptor)  # another process took it for nobody's before it was locked


def _open(path: Path) -> int | None:
    """A descriptor of a file or a folder, where the system gives one."""
    try:
        return os.open(path, os.O_RDONLY)
    except OSError:
        return None


def _remove_unless_held(folder: Path) -> None:
    """Remove a sibling whose process is gone; the lock on it is held until nothing is left of it."""
    descriptor = _open(folder)
    is_free = None if descriptor is None else try_lock(descriptor)
    if is_free is None:
        with suppress(OSError):
            is_free = time.time() - folder.stat().st_mtime > ABANDONED
    if is_free:
        shutil.rmtree(folder, ignore_errors=True)
    if descriptor is not None:
        os.close(descriptor)
