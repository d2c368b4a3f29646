"""A stage counts as done exactly while its key and its files are as they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import d4c
from d4c.errors import ArtifactError
from d4c.storage.manifest import MANIFEST, fingerprint, is_done, outcome, seconds, stage_folder, versions_of

KEY: dict[str, Any] = {"model": "abc", "seed": 0, "reconstruction": None}


def stage(folder: Path, content: str = "result", key: dict[str, Any] = KEY) -> Path:
    with stage_folder(folder, "set", key) as new:
        (new / "sub").mkdir()
        (new / "a").write_text(content)
        (new / "sub" / "b").write_text("more")
    return folder


def test_what_was_completed_is_done(tmp_path: Path) -> None:
    folder = stage(tmp_path / "s")
    assert is_done(folder, KEY)
    assert is_done(folder, dict(reversed(KEY.items())))
    assert 0 <= seconds(folder) < 60
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize(
    "key", [{**KEY, "seed": 1}, {**KEY, "more": 0}, {"model": "abc", "seed": 0}, {**KEY, "seed": "0"}], ids=str
)
def test_another_key_is_not_done(tmp_path: Path, key: dict[str, Any]) -> None:
    assert not is_done(stage(tmp_path / "s"), key)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "file changed": lambda s: (s / "a").write_text("Result"),
    "file of the folder below changed": lambda s: (s / "sub" / "b").write_text(""),
    "file gone": lambda s: (s / "a").unlink(),
}
UNLISTED: dict[str, Callable[[Path], object]] = {
    "sub/c": lambda s: (s / "sub" / "c").write_text("thesis"),
    "c": lambda s: (s / "a").rename(s / "c"),
    "notes": lambda s: (s / "notes").mkdir(),
    "sub/link": lambda s: (s / "sub" / "link").symlink_to(s.parent),
    "a": lambda s: (s / MANIFEST).unlink(),
}


BAD_MANIFESTS = {
    "cut": '{"kind": "set", "fi',
    "a list": "[]",
    "too deep": "[" * 100_000,
    "without files": json.dumps({"kind": "set", "key": fingerprint(KEY)}),
    "files a number": json.dumps({"kind": "set", "key": fingerprint(KEY), "files": 3}),
    "files a list": json.dumps({"kind": "set", "key": fingerprint(KEY), "files": ["a", "sub/b"]}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_stage_is_not_done_and_can_be_made_anew(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    folder = stage(tmp_path / "s")
    damage(folder)
    assert not is_done(folder, KEY)
    assert is_done(stage(folder), KEY)


@pytest.mark.parametrize(("name", "change"), UNLISTED.items(), ids=UNLISTED)
def test_what_somebody_else_put_into_a_stage_is_named_and_never_deleted(
    tmp_path: Path, name: str, change: Callable[[Path], object]
) -> None:
    folder = stage(tmp_path / "s")
    change(folder)
    entries = sorted(folder.rglob("*"))
    with pytest.raises(ArtifactError, match=f"s holds {name}, which d4c did not write there"):
        stage(folder, key={**KEY, "seed": 1})
    assert sorted(folder.rglob("*")) == entries


def test_notes_beside_the_files_of_a_stage_leave_it_done(tmp_path: Path) -> None:
    folder = stage(tmp_path / "s")
    (folder / "notes.txt").write_text("mine")
    assert is_done(folder, KEY)


def test_what_a_file_browser_leaves_is_nobodys(tmp_path: Path) -> None:
    folder = stage(tmp_path / "s")
    (folder / "sub" / ".DS_Store").write_text("")
    assert is_done(stage(folder, key={**KEY, "seed": 1}), {**KEY, "seed": 1})


@pytest.mark.parametrize("text", BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_a_folder_whose_manifest_does_not_read_is_not_ours(tmp_path: Path, text: str) -> None:
    folder = stage(tmp_path / "s")
    (folder / MANIFEST).write_text(text)
    assert not is_done(folder, KEY)
    with pytest.raises(ArtifactError, match="s holds a, which d4c did not write there"):
        stage(folder)


def test_a_file_is_not_replaced_by_a_stage(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("thesis")
    with pytest.raises(ArtifactError, match="is a file, expected a folder"):
        stage(tmp_path / "s")


def test_a_stage_keeps_the_versions_that_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = stage(tmp_path / "s")
    monkeypatch.setattr("d4c.storage.manifest.__version__", "9.9")
    assert versions_of(folder)["d4c"] == d4c.__version__
    assert versions_of(stage(folder))["d4c"] == "9.9"


def test_a_folder_that_is_not_there_is_not_done(tmp_path: Path) -> None:
    assert not is_done(tmp_path / "none", KEY)


def test_the_outcome_changes_with_key_and_content_and_nothing_else(tmp_path: Path) -> None:
    same = {outcome(stage(tmp_path / name)) for name in ("a", "b")}
    assert len(same) == 1
    other_content, other_key = stage(tmp_path / "c", "other"), stage(tmp_path / "d", key={**KEY, "seed": 1})
    assert len(same | {outcome(other_content), outcome(other_key)}) == 3


def test_a_stage_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    folder = stage(tmp_path / "s")

    def fail() -> None:
        with stage_folder(folder, "set", {**KEY, "seed": 1}) as new:
            (new / "a").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert is_done(folder, KEY)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
