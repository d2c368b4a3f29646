"""Stores embeddings of pictures in one .npz file, read without pickle and written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from d4c.errors import DataError
from d4c.reading.arrays import read_arrays
from d4c.storage.files import atomic_file

FORMAT_VERSION = 2
"""1 was of pictures as they are stored; since 2, EXIF data turns them."""


UNIT_TOLERANCE = 1e-3
"""How far the length of a stored embedding may be from 1; float32 stays within 1e-6."""


class Stamp(NamedTuple):
    """The size in bytes and the time of change in nanoseconds by which a file counts as unchanged."""

    size: int
    changed: int


class Entry(NamedTuple):
    """The unit embedding [D] of a picture, and the stamp of the file that it was made from."""

    stamp: Stamp
    embedding: NDArray[np.float32]


Entries = dict[str, Entry]
"""Entries by the path of the picture."""


def read_entries(file: Path, model: str, dimensions: int) -> Entries:
    """Read what `write_entries` wrote.

    Args:
        file: The file.
        model: Fingerprint of the model that made the embeddings.
        dimensions: Width D of its embeddings.

    Returns:
        The entries; none if the file does not exist or belongs to another model.

    Raises:
        DataError: The file is damaged, of a newer version or something else.
    """
    if not file.exists():
        return {}
    if not file.is_file():  # a pipe would wait for somebody to write
        raise DataError(f"{file} is not a regular file, expected one of embeddings; name another one.")
    try:
        stored = read_arrays(file, ["format_version", "model", "paths", "stamps", "embeddings"])
        version = _version(stored["format_version"])
        if version == FORMAT_VERSION and stored["model"].dtype.kind == "U" and str(stored["model"]) == model:
            return _entries(stored["paths"], stored["stamps"], stored["embeddings"], dimensions)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); name another file.") from None
    except ValueError as error:
        raise DataError(f"{file} is not a file of embeddings ({error}); remove it or name another one.") from None
    if version > FORMAT_VERSION:
        raise DataError(
            f"{file} has format version {version}, but this d4c reads up to {FORMAT_VERSION}; install a newer d4c or "
            "remove the file."
        )
    return {}


def _version(stored: NDArray[Any]) -> int:
    if stored.shape != () or stored.dtype.kind != "i":
        raise ValueError("its format version is not a whole number")
    return int(stored)


def _entries(
    paths: NDArray[np.str_], stamps: NDArray[np.int64], embeddings: NDArray[np.float32], dimensions: int
) -> Entries:
    count = len(paths)
    kinds = paths.dtype.kind + stamps.dtype.str[1:] + embeddings.dtype.str[1:]
    if kinds != "Ui8f4" or paths.ndim != 1 or stamps.shape != (count, 2) or embeddings.shape != (count, dimensions):
        raise ValueError("its arrays do not belong together")
    if not np.isfinite(embeddings).all():
        raise ValueError("it holds numbers that are not finite")
    if np.abs(np.linalg.norm(embeddings, axis=1) - 1).max(initial=0) > UNIT_TOLERANCE:
        raise ValueError("it holds embeddings that are not of unit length")
    rows = zip(paths.tolist(), stamps.tolist(), embeddings, strict=True)
    return {path: Entry(Stamp(*stamp), row) for path, stamp, row in rows}


def write_entries(file: Path, model: str, entries: Entries) -> None:
    """Write all entries to a file, which replaces an earlier one as a whole.

    Args:
        file: The file.
        model: Fingerprint of the model that made the embeddings.
        entries: The entries, at least one.

    Raises:
        DataError: The file cannot be written.
    """
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
