"""A watch says when the pictures of a folder are others, and only then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from d4c.errors import DataError
from d4c.runtime.watching import changes


def change_once(folder: Path) -> None:
    (folder / "a.jpg").write_bytes(b"other")


def add(folder: Path) -> None:
    (folder / "b.jpg").touch()


def remove(folder: Path) -> None:
    (folder / "other.jpg").unlink()


@pytest.mark.parametrize("apply", [change_once, add, remove])
def test_a_change_is_noticed_when_it_happens(apply: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "other.jpg").touch()
    looks: list[int] = []

    def wait() -> None:
        looks.append(1)
        if len(looks) == 3:
            apply(tmp_path)

    seen = changes(tmp_path, wait)
    next(seen)
    assert looks == []
    next(seen)
    assert len(looks) == 3


def test_what_changes_meanwhile_is_noticed_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    seen = changes(tmp_path, lambda: pytest.fail("waited"))
    next(seen)
    add(tmp_path)
    next(seen)


def test_a_watch_ends_when_no_picture_is_left(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    seen = changes(tmp_path, (tmp_path / "a.jpg").unlink)
    next(seen)
    with pytest.raises(DataError, match="holds no pictures"):
        next(seen)
