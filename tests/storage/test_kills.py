"""A process that is killed at any of its file operations loses nothing: the old result or the new one is there, whole.

What comes next finds no trace of the killed one, or works on what it left.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

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


JOBS = {"output": output, "stage": stage}


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


def kill_at_every_event(folder: Path, job: Callable[[Path, str], None], earlier: bool) -> int:
    """Kill a job at its first file operation, at its second one and so on; how many it has."""
    event, is_over = 0, False
    while not is_over:
        place = folder / str(event)
        place.mkdir()
        if earlier:
            job(place, "old")
        is_over = not killed_at(event, lambda place=place: job(place, "new"))  # type: ignore[misc]
        restore(place / "out")
        assert earlier <= (place / "out").exists()
        assert not (place / "out").exists() or read(place) in ("old", "new")
        job(place, "newer")
        assert read(place) == "newer"
        left = [path for path in place.rglob("*") if path.name.endswith((NEW, OLD, LOCK))]
        assert left == []
        event += 1
    return event


@pytest.mark.parametrize(
    ("job", "at_once", "earlier"),
    [("output", True, True), ("output", False, True), ("output", True, False), ("stage", True, True)],
    ids=["exchange", "two renames", "no earlier result", "stage"],
)
def test_nothing_is_lost_and_nothing_is_left(tmp_path: Path, job: str, at_once: bool, earlier: bool) -> None:
    # In a process of its own: fork copies locks that other threads hold, and test processes have many threads.
    command = [sys.executable, __file__, str(tmp_path), job, str(int(at_once)), str(int(earlier))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 15


if __name__ == "__main__":
    folder, job, at_once, earlier = sys.argv[1:]
    with patch("os.fsync"):  # which only a loss of power would tell
        if at_once == "1":
            print(kill_at_every_event(Path(folder), JOBS[job], earlier == "1"))
        else:
            with patch("d4c.storage.siblings.exchange", return_value=False):
                print(kill_at_every_event(Path(folder), JOBS[job], earlier == "1"))
