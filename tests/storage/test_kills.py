"""A process that is killed at any of its file operations loses nothing: the old result or the new one is there, whole.

What comes next finds no trace of the killed one, or works on what it left.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from d4c.storage.files import write_json
from d4c.storage.locks import LOCK
from d4c.storage.manifest import stage_folder
from d4c.storage.outputs import output_folder, reserved
from d4c.storage.siblings import NEW, OLD, restore

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

EVENTS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "ctypes.dlsym")
"""What changes files, beside opening them for writing."""


def output(folder: Path, content: str) -> None:
    with reserved(folder / "out"), output_folder(folder / "out", "export") as new:
        (new / "deep").mkdir()
        (new / "deep" / "a").write_text(content)
        (new / f"only {content}").write_text(content)


def stage(folder: Path, content: str) -> None:
    write_json(folder / "config.json", content)
    with stage_folder(folder / "out", "set", {"content": content}) as new:
        (new / "deep").mkdir()
        (new / "deep" / "a").write_text(content)


def read(folder: Path) -> str:
    return (folder / "out" / "deep" / "a").read_text()


def killed_at(event: int, work: Callable[[], None]) -> bool:
    """Run something in a process that ends at its n-th file operation; whether it came that far."""
    child = os.fork()
    if not child:
        seen = 0

        def end(name: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            writes = name == "open" and isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
            seen += writes or name in EVENTS
            if seen > event:
                os._exit(9)

        sys.addaudithook(end)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize(
    ("job", "at_once", "earlier"),
    [(output, True, True), (output, False, True), (output, True, False), (stage, True, True)],
    ids=["exchange", "two renames", "no earlier result", "stage"],
)
def test_nothing_is_lost_and_nothing_is_left(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    job: Callable[[Path, str], None],
    at_once: bool,
    earlier: bool,
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # which only a loss of power would tell
    if not at_once:
        monkeypatch.setattr("d4c.storage.siblings.exchange", lambda one, other: False)
    event, is_over = 0, False
    while not is_over:
        folder = tmp_path / str(event)
        folder.mkdir()
        if earlier:
            job(folder, "old")
        is_over = not killed_at(event, lambda folder=folder: job(folder, "new"))  # type: ignore[misc]
        restore(folder / "out")
        assert earlier <= (folder / "out").exists()
        assert not (folder / "out").exists() or read(folder) in ("old", "new")
        job(folder, "newer")
        assert read(folder) == "newer"
        left = [path for path in folder.rglob("*") if path.name.endswith((NEW, OLD, LOCK))]
        assert left == []
        event += 1
    assert event > 15
