"""Locks that end with their process, so that what a killed one left can be told from what another one works on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from d4c.errors import SettingError

LOCK = ".d4c-lock"
"""How the name of a lock file ends."""


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file or folder for this process.

    Args:
        descriptor: The file; it stays locked until it is closed, and no longer than the process lives.

    Returns:
        Whether it is locked now; None where the file system has no locks.
    """
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextmanager
def locked(file: Path, folder: Path) -> Iterator[None]:
    """Hold a lock while a long job works.

    Args:
        file: The lock file, which is removed at the end.
        folder: What the job writes, for the message.

    Raises:
        SettingError: Another process holds the lock.
    """
    descriptor = _open_locked(file)
    if descriptor is None:
        raise SettingError(
            f"Another d4c is working in {folder}; wait until it is done, stop it, or choose another folder."
        )
    try:
        yield
    finally:
        if sys.platform != "win32":  # where an open file cannot be removed
            file.unlink(missing_ok=True)
        os.close(descriptor)
        if sys.platform == "win32":
            with suppress(OSError):
                file.unlink(missing_ok=True)


def _open_locked(file: Path) -> int | None:
    """The descriptor of a lock file, locked; None if another process has it."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        if try_lock(descriptor) is False:
            os.close(descriptor)
            return None
        if same_file(descriptor, file):
            return descriptor
        os.close(descriptor)  # its holder was about to remove it


def same_file(descriptor: int, path: Path) -> bool:
    """Whether a path still leads to an open file or folder."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
