"""The one reader of JSON files: bounded in size and depth, with errors that say what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from d4c.errors import D4CError
from d4c.reading.bounded import read_up_to

LONGEST = 64 << 20
"""Largest size in bytes; the largest file that d4c writes, the provenance of many images, stays far below."""
DEEPEST = 64
"""Levels of nesting; what walks over the content recursively needs a few frames for each."""


def read_json(path: Path, error: type[D4CError], advice: str, longest: int = LONGEST) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        error: Class of the exception to raise.
        advice: What to do about the error, as the end of its sentence.
        longest: Largest size in bytes.

    Returns:
        The content of the file; `d4c.reading.schema` checks what it holds.

    Raises:
        D4CError: Of class `error`, if the file is missing, cannot be read, is too large or is not JSON.
    """
    try:
        if path.exists() and not path.is_file():
            raise error(f"{path} is not a regular file; {advice}.")
        with path.open("rb") as stream:
            text = read_up_to(stream, longest)
    except OSError as problem:
        raise error(f"{path} cannot be read ({problem.strerror}); {advice}.") from None
    except ValueError:  # a zero byte in the path
        raise error(f"{str(path)!r} is not a path; {advice}.") from None
    return parse_json(text, str(path), error, advice, longest)


def parse_json(text: bytes | str, source: str, error: type[D4CError], advice: str, longest: int = LONGEST) -> Any:
    """Parse JSON; `source` names it in the message of the error, of class `error`, that anything else is."""
    if len(text) > longest:
        raise error(f"{source} has more than {longest >> 20} MiB, expected a JSON file of at most that; {advice}.")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise error(f"{source} is not JSON; {advice}.") from None
    if _depth_exceeds(data, DEEPEST):
        raise error(f"{source} is nested more than {DEEPEST} levels deep; {advice}.")
    return data


def _depth_exceeds(data: Any, limit: int) -> bool:
    """Whether containers lie more than `limit` deep in one another."""
    level = [data]
    for _ in range(limit + 1):
        containers = [item for item in level if isinstance(item, dict | list)]
        if not containers:
            return False
        level = [child for item in containers for child in (item.values() if isinstance(item, dict) else item)]
    return True
