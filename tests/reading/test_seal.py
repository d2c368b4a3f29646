"""A sealed record is read as it was written, and not at all after any change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from d4c.errors import ArtifactError
from d4c.reading.json_file import read_json
from d4c.reading.seal import check_file, check_seal, file_hashes, write_sealed

DATA = {"name": "Käse", "sizes": (1, 2), "share": 0.1, "none": None, "numbers": {1: "a"}}


def read(file: Path) -> Any:
    data = read_json(file, ArtifactError, "")
    check_seal(data, str(file), ArtifactError, "write it again")
    return data


def test_what_was_sealed_is_read(tmp_path: Path) -> None:
    write_sealed(tmp_path / "a.json", DATA)
    assert read(tmp_path / "a.json")["sizes"] == [1, 2]


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_sealed(file, DATA)
    whole, meaning = file.read_bytes(), read(file)
    for i in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[i // 8] ^= 1 << i % 8
        file.write_bytes(damaged)
        try:
            assert read(file) == meaning  # white space
        except ArtifactError:
            continue


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"some bytes")
    expected = file_hashes(tmp_path, ["a"])["a"]
    check_file(file, expected, ArtifactError, "")
    for content in (b"some byteS", b"some bytes and more", None):
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"has changed|has 19 bytes, expected 10|is missing"):
            check_file(file, expected, ArtifactError, "write it again")
