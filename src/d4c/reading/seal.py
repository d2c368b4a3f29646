"""Checksums in what d4c writes: a record carries that of its own content, and those of the files beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from d4c.errors import D4CError
from d4c.reading.schema import Record, Table, Text, Whole, check
from d4c.storage.files import sha256, write_json

CHECKSUM = "checksum"
FILES = Table(Record({"bytes": Whole(0, 1 << 62), "sha256": Text(64)}), longest=100)
"""Sizes and hashes by name of the file."""


def write_sealed(path: Path, data: dict[str, Any]) -> None:
    """Write a table as JSON with the checksum of its content."""
    plain = json.loads(json.dumps(data))  # lists for tuples, as they are read back
    write_json(path, {**plain, CHECKSUM: _checksum(plain)})


def check_seal(data: Any, source: str, error: type[D4CError], advice: str) -> None:
    """Raise an error of class `error` if a table that `write_sealed` wrote has changed since."""
    check(data, Record({CHECKSUM: Text()}), source, error, advice)
    if data[CHECKSUM] != _checksum({key: value for key, value in data.items() if key != CHECKSUM}):
        raise error(f"{source} has changed since it was written; {advice}.")


def file_hashes(folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of the named files of a folder, as `FILES` describes them."""
    return {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in names}


def check_file(path: Path, expected: Any, error: type[D4CError], advice: str) -> None:
    """Raise an error of class `error` unless a file has the size and the hash of an entry of `file_hashes`."""
    size = path.stat().st_size if path.is_file() else None
    if size is None:
        raise error(f"{path} is missing; {advice}.")
    if size != expected["bytes"]:
        raise error(f"{path} has {size} bytes, expected {expected['bytes']}; {advice}.")
    if sha256(path) != expected["sha256"]:
        raise error(f"{path} has changed since it was written; {advice}.")


def _checksum(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()
