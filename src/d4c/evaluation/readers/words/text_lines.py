"""Reads a text file as a whole or line by line."""

from __future__ import annotations

from pathlib import Path

from d4c.errors import DataError
from d4c.storage.files import read_text


def text_lines(path: Path) -> list[str]:
    """Read the lines of a UTF-8 text file that are not blank; raises DataError as `whole_text` does."""
    return [line.strip() for line in whole_text(path).splitlines() if line.strip()]


def whole_text(path: Path) -> str:
    """Read a UTF-8 text file; raises DataError for other encodings and for what is not a regular file."""
    try:
        return read_text(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}), expected a text file; correct the path.") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text, expected lines of text; save it as UTF-8.") from None
