"""Reads a text file line by line."""

from __future__ import annotations

from pathlib import Path

from d4c.errors import DataError
from d4c.storage.files import read_text


def text_lines(path: Path) -> list[str]:
    """Read the lines of a UTF-8 text file that are not blank; raise DataError for other encodings."""
    try:
        return [line.strip() for line in read_text(path).splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text, expected lines of text; save it as UTF-8.") from None
