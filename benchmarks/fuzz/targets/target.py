"""What a target is, and how an input gets to its reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fuzz.mutators import Mutate, bytes_anywhere, deep_json, json_values
from d4c.reading.seal import CHECKSUM, write_sealed

ROUGH: tuple[Mutate, ...] = (json_values, json_values, json_values, json_values, json_values, bytes_anywhere, deep_json)
"""For JSON: mostly values, so that what lies behind the parser is reached."""


@dataclass(frozen=True)
class Target:
    """A reader.

    Args:
        name: What it reads.
        seeds: Sound inputs.
        mutators: Ways to change them.
        read: Reads a changed input; raises D4CError, or returns.
        share: Inputs relative to the other targets; slow readers get fewer.
    """

    name: str
    seeds: tuple[bytes, ...]
    mutators: tuple[Mutate, ...]
    read: Callable[[bytes], object]
    share: float = 1.0


def file_of(path: Path, read: Callable[[], object]) -> Callable[[bytes], object]:
    """Write the input to a file and read it."""

    def attempt(data: bytes) -> None:
        path.write_bytes(data)
        read()

    return attempt


def resealed(path: Path, read: Callable[[], object]) -> Callable[[bytes], object]:
    """Write the input with a checksum that fits, as whoever damages a file on purpose would do, and read it."""

    def attempt(data: bytes) -> None:
        try:
            tree = json.loads(data)
            if isinstance(tree, dict):
                write_sealed(path, {key: value for key, value in tree.items() if key != CHECKSUM})
            else:
                path.write_bytes(data)
        except (ValueError, RecursionError):
            path.write_bytes(data)
        read()

    return attempt
