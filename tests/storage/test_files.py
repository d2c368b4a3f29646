"""A file or a folder is the old one or the complete new one."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from safetensors import SafetensorError

from d4c.errors import DataError
from d4c.reading.json_file import read_json
from d4c.storage import files
from d4c.storage.files import atomic_file, atomic_folder, read_text, sha256, write_json


class Stop(Exception):
    """A failure halfway through."""


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_file_appears_with_its_content(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    with atomic_file(target) as temporary:
        assert not target.exists()
        temporary.write_text("whole")
        assert temporary.parent.parent == target.parent
    assert target.read_text() == "whole"
    assert names(tmp_path) == ["new", "new/a.txt"]


def test_a_file_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write() -> None:
        with atomic_file(target) as temporary:
            temporary.write_text("half")
            raise Stop

    with pytest.raises(Stop):
        write()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "out"
    for generation in ("one", "two"):
        with atomic_folder(target) as temporary:
            (temporary / generation / "deep").mkdir(parents=True)
            (temporary / generation / "deep" / "x").write_text(generation)
    assert names(tmp_path) == ["out", "out/two", "out/two/deep", "out/two/deep/x"]


@pytest.mark.parametrize("old", [True, False], ids=["old folder", "no folder"])
def test_a_folder_that_fails_leaves_what_was_there(tmp_path: Path, old: bool) -> None:
    target = tmp_path / "out"
    if old:
        target.mkdir()
        (target / "x").write_text("old")
    old_names = names(tmp_path)

    def write() -> None:
        with atomic_folder(target) as temporary:
            (temporary / "x").write_text("half")
            raise Stop

    with pytest.raises(Stop):
        write()
    assert names(tmp_path) == old_names
    assert not old or (target / "x").read_text() == "old"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002], ids=oct)
def test_modes_follow_the_umask(tmp_path: Path, umask: int) -> None:
    previous = os.umask(umask)
    try:
        with atomic_file(tmp_path / "a") as file:
            file.write_text("x")
            file.chmod(0o600)  # as some libraries do
        with atomic_folder(tmp_path / "b") as folder:
            (folder / "c").mkdir()
            (folder / "c" / "d").write_text("x")
            (folder / "c" / "d").chmod(0o755)
    finally:
        os.umask(previous)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "b", "b/c", "b/c/d")]
    assert modes == [mode & ~umask for mode in (0o666, 0o777, 0o777, 0o666)]


def test_a_link_stays_a_link_to_what_is_written(tmp_path: Path) -> None:
    for name in ("file", "folder"):
        (tmp_path / name).symlink_to(tmp_path / f"real {name}")
    with atomic_file(tmp_path / "file") as file:
        file.write_text("x")
    with atomic_folder(tmp_path / "folder") as folder:
        (folder / "a").write_text("x")
    assert (tmp_path / "file").is_symlink()
    assert (tmp_path / "folder").is_symlink()
    assert names(tmp_path) == ["file", "folder", "real file", "real folder", "real folder/a"]


@pytest.mark.parametrize("make", [atomic_file, atomic_folder])
def test_an_error_of_the_system_names_what_was_asked_for(
    tmp_path: Path, make: Callable[[Path], AbstractContextManager[Path]]
) -> None:
    """Not the temporary file, and also where a library wraps it in an error of its own."""
    target = tmp_path / "name"

    def fail(error: Callable[[Path], Exception]) -> None:
        with make(target) as temporary:
            raise error(temporary)

    errors: dict[str, Callable[[Path], Exception]] = {
        "system": lambda new: OSError(28, "No space left on device", str(new / "x")),
        "without a name": lambda _: OSError(28, "No space left on device"),
        "safetensors": lambda _: SafetensorError("Error while serializing: I/O error: full (os error 28)"),
        "tokenizers": lambda _: Exception("No space left on device (os error 28)"),
    }
    for error in errors.values():
        with pytest.raises(OSError, match="No space left on device") as caught:
            fail(error)
        assert (caught.value.errno, caught.value.filename) == (28, str(target))
    with pytest.raises(FileNotFoundError) as caught:
        fail(lambda _: FileNotFoundError(2, "No such file or directory", "another"))
    assert caught.value.filename == "another"
    assert names(tmp_path) == []


def test_flushing_works_as_windows_does_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There a folder cannot be opened, and a file that is open for reading cannot be flushed."""
    opened, flush = os.open, os.fsync
    writable: set[int] = set()

    def windows_open(path: Path, flags: int, mode: int = 0o777) -> int:
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        descriptor = opened(path, flags, mode)
        if flags & os.O_RDWR:
            writable.add(descriptor)
        return descriptor

    def windows_fsync(descriptor: int) -> None:
        if descriptor not in writable:
            raise OSError(9, "Bad file descriptor")
        flush(descriptor)

    monkeypatch.setattr("d4c.storage.files.WINDOWS", True)
    monkeypatch.setattr(shutil, "_use_fd_functions", False)
    monkeypatch.setattr(os, "open", windows_open)
    monkeypatch.setattr(os, "fsync", windows_fsync)
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("x")
    write_json(tmp_path / "b.json", 1)
    assert names(tmp_path) == ["b.json", "out", "out/a"]
    assert writable


def test_a_folder_that_a_file_system_does_not_flush_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(22, "Invalid argument")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_json(tmp_path / "a.json", 1)
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with mark"])
def test_text_is_read_as_shells_and_editors_write_it(tmp_path: Path, encoding: str) -> None:
    """Notepad marks UTF-8, and `>` of Windows PowerShell writes UTF-16."""
    text = "Käse\r\nbread 犬\n"
    content = b"\xff\xfe" + text.encode("utf-16-le") if "mark" in encoding else text.encode(encoding)
    (tmp_path / "a.txt").write_bytes(content)
    assert read_text(tmp_path / "a.txt") == text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_text_comes_from_regular_files_only(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        for read in (read_text, sha256):
            with pytest.raises(OSError, match="not a regular file"):
                read(path)


def test_text_beyond_the_largest_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST_TEXT", 3)
    (tmp_path / "a.txt").write_text("abc")
    assert read_text(tmp_path / "a.txt") == "abc"
    (tmp_path / "a.txt").write_text("abcd")
    with pytest.raises(OSError, match="more than"):
        read_text(tmp_path / "a.txt")


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "x").write_bytes(data)
    assert sha256(tmp_path / "x") == hashlib.sha256(data).hexdigest()


def test_names_that_are_not_text_survive_json(tmp_path: Path) -> None:
    data = {"caf\udce9 é": ["\udcff", "日本"]}
    write_json(tmp_path / "a.json", data)
    assert read_json(tmp_path / "a.json", DataError, "") == data
    assert "é" in (tmp_path / "a.json").read_text(encoding="utf-8")
