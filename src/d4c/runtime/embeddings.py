"""A file of embeddings with what they were made of: one .npz, read without pickle and written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from d4c.errors import DataError
from d4c.files import atomic_file

FORMAT_VERSION = 1


class Stamp(NamedTuple):
    """What says that a file is still the same: bytes, and nanoseconds of its last change."""

    size: int
    changed: int


class Entry(NamedTuple):
    """The unit embedding [D] of a picture as it was."""

    stamp: Stamp
    embedding: NDArray[np.float32]


Entries = dict[str, Entry]
"""By the picture's path."""


def read_entries(file: Path, model: str, dimensions: int) -> Entries:
    """What `write_entries` wrote; nothing if there is no file or it is of another model.

    Raises DataError if the file is damaged, of a newer version or something else.
    """
    if not file.exists():
        return {}
    try:
        with np.load(file, allow_pickle=False) as stored:
            version = int(stored["format_version"])
            if version == FORMAT_VERSION and str(stored["model"]) == model:
                paths, stamps, embeddings = (stored[key] for key in ("paths", "stamps", "embeddings"))
                return _entries(paths, stamps, embeddings, dimensions)
    except Exception as error:  # zip files and arrays are damaged in every way there is
        raise DataError(f"{file} is not a file of embeddings ({error}); remove it or name another one.") from None
    if version > FORMAT_VERSION:
        raise DataError(
            f"{file} has format version {version}, but this d4c reads up to {FORMAT_VERSION}; install a newer d4c or "
            "remove the file."
        )
    return {}


def _entries(
    paths: NDArray[np.str_], stamps: NDArray[np.int64], embeddings: NDArray[np.float32], dimensions: int
) -> Entries:
    count = len(paths)
    kinds = paths.dtype.kind + stamps.dtype.str[1:] + embeddings.dtype.str[1:]
    if kinds != "Ui8f4" or stamps.shape != (count, 2) or embeddings.shape != (count, dimensions):
        raise ValueError("its arrays do not belong together")
    if not np.isfinite(embeddings).all():
        raise ValueError("it holds numbers that are not finite")
    rows = zip(paths.tolist(), stamps.tolist(), embeddings, strict=True)
    return {path: Entry(Stamp(*stamp), row) for path, stamp, row in rows}


def write_entries(file: Path, model: str, entries: Entries) -> None:
    """Put a complete file in place of an earlier one; raises DataError if that place cannot be written."""
    try:
        with atomic_file(file) as new, new.open("wb") as stream:
            np.savez(
                stream,
                format_version=FORMAT_VERSION,
                model=model,
                paths=np.array(list(entries), np.str_),
                stamps=np.array([entry.stamp for entry in entries.values()], np.int64).reshape(-1, 2),
                embeddings=np.stack([entry.embedding for entry in entries.values()]),
            )
    except OSError as error:
        raise DataError(f"{file} cannot be written ({error.strerror}); keep the embeddings in another file.") from None
