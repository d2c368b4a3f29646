"""A lock is held by one process at a time, and by none that is gone; on Windows as well, by emulation."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from d4c.errors import SettingError
from d4c.storage.locks import locked, try_lock


@pytest.fixture(params=["here", "windows", "no locks"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """This system, Windows, or a file system whose locks do not work."""
    if request.param == "windows":
        held: dict[tuple[int, int], int] = {}
        close = os.close

        def locking(descriptor: int, _mode: int, size: int) -> None:
            assert size == 1
            file = os.fstat(descriptor).st_dev, os.fstat(descriptor).st_ino
            if held.setdefault(file, descriptor) != descriptor:
                raise OSError(13, "Permission denied")

        def unlock(descriptor: int) -> None:
            for file in [file for file, holder in held.items() if holder == descriptor]:
                del held[file]
            close(descriptor)

        monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
        monkeypatch.setattr(sys, "platform", "win32")
        monkeypatch.setattr(os, "close", unlock)
    if request.param == "no locks":

        def refuse(_descriptor: int, _operation: int) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr("fcntl.flock", refuse)
    return str(request.param)


def test_a_lock_keeps_others_out_and_leaves_nothing(system: str, tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    for _ in range(2):
        with locked(file, tmp_path):
            if system == "no locks":
                continue
            with pytest.raises(SettingError, match="Another d4c is working in"), locked(file, tmp_path):
                pass
            assert file.exists()
    assert list(tmp_path.iterdir()) == []


def test_whether_it_is_locked_may_be_unknown(system: str, tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as one, (tmp_path / "a").open("w") as other:
        answers = [try_lock(one.fileno()), try_lock(other.fileno())]
    assert answers == ([None, None] if system == "no locks" else [True, False])
