"""Anything but JSON of a sensible size and depth is refused in one sentence."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from d4c.errors import DataError
from d4c.reading.json_file import DEEPEST, read_json
from d4c.storage.files import write_json


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{", "is not JSON; ask for another"),
        (b"\xff\xfe", "is not JSON; ask for another"),
        (b"[" * 1_000_000, "is not JSON; ask for another"),
        (b"9" * 5000, "is not JSON; ask for another"),
        (b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1), "is nested more than 64 levels deep; ask for another"),
        (None, "cannot be read (No such file or directory); ask for another"),
    ],
    ids=["truncated", "not text", "a million brackets", "a long number", "deep", "missing"],
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


def test_the_deepest_nesting_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * DEEPEST + "]" * DEEPEST)
    read_json(tmp_path / "a.json", DataError, "")


def test_a_large_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b" " * (1 << 20) + b"1")
    with pytest.raises(DataError, match="more than 1 MiB"):
        read_json(tmp_path / "a.json", DataError, "remove it", longest=1 << 20)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(DataError, match="not a regular file"):
        read_json(tmp_path / "a.json", DataError, "remove it")


def test_a_small_file_takes_little_memory_however_large_one_may_be(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(b"[1]")
    tracemalloc.start()
    try:
        assert read_json(file, DataError, "ask for another", 512 << 20) == [1]
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
