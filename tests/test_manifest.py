"""A stage counts as done exactly while its key and its files are as they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from d4c.manifest import MANIFEST, fingerprint, is_done, outcome, seconds, stage_folder

KEY: dict[str, Any] = {"model": "abc", "seed": 0, "reconstruction": None}


def stage(folder: Path, content: str = "result", key: dict[str, Any] = KEY) -> Path:
    with stage_folder(folder, key) as new:
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
    "file added": lambda s: (s / "sub" / "c").write_text("x"),
    "file renamed": lambda s: (s / "a").rename(s / "c"),
    "manifest gone": lambda s: (s / MANIFEST).unlink(),
    "manifest cut": lambda s: (s / MANIFEST).write_text((s / MANIFEST).read_text()[:50]),
    "manifest a list": lambda s: (s / MANIFEST).write_text("[]"),
    "manifest without files": lambda s: (s / MANIFEST).write_text(json.dumps({"key": fingerprint(KEY)})),
    "files a number": lambda s: (s / MANIFEST).write_text(json.dumps({"key": fingerprint(KEY), "files": 3})),
    "files a list": lambda s: (s / MANIFEST).write_text(json.dumps({"key": fingerprint(KEY), "files": ["a", "sub/b"]})),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_stage_is_not_done_and_can_be_made_anew(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    folder = stage(tmp_path / "s")
    damage(folder)
    assert not is_done(folder, KEY)
    assert is_done(stage(folder), KEY)


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
        with stage_folder(folder, {**KEY, "seed": 1}) as new:
            (new / "a").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert is_done(folder, KEY)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("left", [".s.1234", ".s.old.1234", "..s.1234.5678"])
def test_what_a_killed_process_left_is_removed(tmp_path: Path, left: str) -> None:
    (tmp_path / left).mkdir()
    (tmp_path / left / "half").write_text("x")
    (tmp_path / ".stay").mkdir()
    (tmp_path / ".synthesis.of.another").mkdir()
    stage(tmp_path / "s")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".stay", ".synthesis.of.another", "s"]
