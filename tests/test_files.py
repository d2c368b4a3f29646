"""A file or a folder is the old one or the complete new one."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from d4c.errors import DataError
from d4c.files import atomic_file, atomic_folder, read_json, sha256, write_json


class Stop(Exception):
    """A failure halfway through."""


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_file_appears_with_its_content(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    with atomic_file(target) as temporary:
        assert not target.exists()
        temporary.write_text("whole")
        assert temporary.parent == target.parent
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


def test_a_folder_that_cannot_be_renamed_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "x").write_text("old")
    rename, calls = Path.replace, []

    def refuse_second(self: Path, to: Path) -> Path:
        calls.append(to)
        if len(calls) == 2:
            raise Stop
        return rename(self, to)

    monkeypatch.setattr(Path, "replace", refuse_second)
    with pytest.raises(Stop), atomic_folder(target) as temporary:
        (temporary / "x").write_text("new")
    assert (target / "x").read_text() == "old"
    assert names(tmp_path) == ["out", "out/x"]


def test_other_users_may_read_what_is_written(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a") as file:
        file.write_text("x")
    with atomic_folder(tmp_path / "b") as folder:
        (folder / "c").write_text("x")
        (folder / "c").chmod(0o600)
    modes = [oct(os.stat(tmp_path / name).st_mode & 0o777) for name in ("a", "b", "b/c")]
    assert modes == ["0o644", "0o755", "0o644"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{", "is not JSON; ask for another"),
        (b"\xff\xfe", "is not JSON; ask for another"),
        (b"[" * 100_000, "is not JSON; ask for another"),
        (None, "cannot be read (No such file or directory); ask for another"),
    ],
    ids=["truncated", "not text", "too deep", "missing"],
)
def test_json_that_cannot_be_read_is_refused_in_one_sentence(
    content: bytes | None, sentence: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_json(file, DataError, "ask for another")
    assert str(caught.value) == f"{file} {sentence}."


def test_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    data = {"names": ["Käse", "bread"], "number": 1.5, "nothing": None}
    write_json(tmp_path / "a.json", data)
    assert read_json(tmp_path / "a.json", DataError, "") == data


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "x").write_bytes(data)
    assert sha256(tmp_path / "x") == hashlib.sha256(data).hexdigest()
