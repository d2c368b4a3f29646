"""What is being written lies beside its place until it is whole; what killed processes leave there is removed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from d4c.errors import ArtifactError
from d4c.storage.files import atomic_file, atomic_folder
from d4c.storage.siblings import ABANDONED, NEW, OLD, check_writable, exchange, restore


class Stop(Exception):
    """A failure halfway through."""


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(params=[True, False], ids=["exchange", "two renames"])
def old(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An earlier folder, where the system can exchange two folders at once and where it cannot."""
    if not request.param:
        monkeypatch.setattr("d4c.storage.siblings.exchange", lambda one, other: False)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("old")
    return tmp_path / "out"


def replace(folder: Path) -> None:
    with atomic_folder(folder) as new:
        (new / "y").write_text("new")


def test_a_folder_takes_the_place_of_the_old_one(old: Path) -> None:
    replace(old)
    assert names(old.parent) == ["out", "out/y"]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.replace

    def refuse_new(self: Path, to: Path) -> Path:
        if (self / "y").exists():
            raise Stop
        return rename(self, to)

    monkeypatch.setattr(Path, "replace", refuse_new)
    monkeypatch.setattr("d4c.storage.siblings.exchange", lambda one, other: False)
    with pytest.raises(Stop):
        replace(old)
    assert names(old.parent) == ["out", "out/x"]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone exchanges folders")
def test_linux_exchanges_two_folders_at_once(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system does not")
    assert names(tmp_path) == ["a", "a/b", "b", "b/a"]
    assert not exchange(tmp_path / "a", tmp_path / "missing")


KILLED = """
import os, sys
from pathlib import Path
import d4c.storage.siblings as siblings
from d4c.storage.files import atomic_file, atomic_folder
siblings.exchange = lambda one, other: False
moment, out = sys.argv[1], Path(sys.argv[2])
rename, calls = Path.replace, []
def killed(self, to):
    calls.append(to)
    if moment == str(len(calls)):
        os._exit(9)
    return rename(self, to)
Path.replace = killed
with (atomic_folder if moment != "file" else atomic_file)(out) as new:
    if moment in ("file", "folder"):
        (new if moment == "folder" else new.parent).joinpath("half").write_text("x")
        os._exit(9)
    (new / "y").write_text("new")
"""


def killed(moment: str, out: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, moment, str(out)])
    assert done.returncode == 9


@pytest.mark.parametrize("moment", ["folder", "file", "1", "2"])
def test_what_a_killed_process_left_is_removed_or_put_back(tmp_path: Path, moment: str) -> None:
    out = tmp_path / "out [*]"
    if moment in "12":
        out.mkdir()
        (out / "x").write_text("old")
    for stays in (".out [*].notes", ".out [*].00000000", ".out*.00000000.d4c-new"):
        (tmp_path / stays).mkdir()
    before = names(tmp_path)
    killed(moment, out)
    assert names(tmp_path) != before
    assert all(name.endswith((NEW, OLD)) for name in {path.split("/")[0] for path in names(tmp_path)} - set(before))
    restore(out)
    if moment in "12":
        assert (out / "x").read_text() == "old"
        replace(out)
    else:
        with atomic_file(out) as file:
            file.write_text("new")
    mine = [name for name in names(tmp_path) if name not in before]
    assert mine == (["out [*]/y"] if moment in "12" else ["out [*]"])


def test_what_a_living_process_writes_stays(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out") as first:
        (first / "half").write_text("x")
        replace(tmp_path / "out")
        assert (first / "half").exists()
    assert names(tmp_path) == ["out", "out/half"]


def test_where_folders_cannot_be_locked_only_what_is_old_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where a folder cannot be opened, and on some network file systems."""
    monkeypatch.setattr("d4c.storage.siblings._open", lambda folder: None)
    young, aged = tmp_path / ".out.00000000.d4c-new", tmp_path / ".out.11111111.d4c-new"
    for folder, age in ((young, 60), (aged, ABANDONED + 60)):
        folder.mkdir()
        os.utime(folder, (time.time() - age,) * 2)
    replace(tmp_path / "out")
    assert [path.name for path in sorted(tmp_path.iterdir())] == [young.name, "out"]


def test_a_path_that_cannot_be_written_is_refused_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    reasons = {
        "/proc/out": "No such file or directory",
        "file/below/out": "Not a directory",
        "x" * 300: "name too long",
    }
    for path, reason in reasons.items():
        with pytest.raises(ArtifactError, match=re.escape(reason)) as caught:
            check_writable(tmp_path / path)
        assert str(caught.value).startswith(f"{tmp_path / path} cannot be written (")
    check_writable(tmp_path / "new" / "folder" / "out")
    assert names(tmp_path) == ["file"]
