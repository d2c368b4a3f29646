"""Finds the files of a folder that are pictures, by how they are named or, under other names, by how they begin."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from d4c.errors import DataError, warn

PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif", ".heic", ".heif", ".hif", ".jxl"),
)
"""Endings of names that say that a file is meant to be a picture, whether it can be read or not."""

_BEGINNINGS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"\x00\x00\x00\x0cjP  "),
    *(b"\x00\x00\x00\x0cJXL ",),
)
BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "heif"),
    **dict.fromkeys((b"avif", b"avis"), "avif"),
}
"""The format of a file in the container of HEIC and AVIF, by the four bytes that follow "ftyp"."""
NAMED = 10
"""Pictures that a summary of skipped ones names."""


def pictures_below(folder: Path) -> Iterator[Path]:
    """Yield the pictures below a folder, in no order; hidden files and folders are left out.

    A folder that may not be read is left out with a warning that names it.

    Only regular files count, and links to them, so that nothing waits for a pipe or a device.
    """
    for parent, folders, names in os.walk(folder, onerror=_warn_of_folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            if not name.startswith(".") and path.is_file() and _is_meant_as_picture(path):
                yield path


def _warn_of_folder(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # removed since the one above it was listed
        warn(f"{error.filename} cannot be read ({error.strerror}), so that its pictures are left out.")


def _is_meant_as_picture(path: Path) -> bool:
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return True
    try:
        with path.open("rb") as stream:
            start = stream.read(16)
    except OSError:
        return False
    webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    return webp or start.startswith(_BEGINNINGS) or (start[4:8] == b"ftyp" and start[8:12] in BRANDS)


def none_readable(folder: object, skipped: Mapping[Any, str]) -> DataError:
    """Return the error of a folder, or a set, whose pictures were all skipped.

    Args:
        folder: Where they are.
        skipped: Why each of them cannot be used; at least one.
    """
    reason = next(iter(skipped.values())).removesuffix(".")
    return DataError(
        f"None of the {len(skipped)} pictures in {folder} can be used ({reason}); give pictures that decode."
    )


def skipped_summary(reasons: Collection[str]) -> list[str]:
    """Return lines that count and name the pictures that were skipped; none if there are none.

    Args:
        reasons: Why each of them cannot be used, as a sentence that names it.
    """
    if not reasons:
        return []
    lines = [f"{len(reasons)} {'picture was' if len(reasons) == 1 else 'pictures were'} skipped:"]
    lines += list(reasons)[:NAMED]
    return lines if len(reasons) <= NAMED else [*lines, f"and {len(reasons) - NAMED} more."]
