"""Reads NumPy's .npz files without pickle and without inflating anything: no array is larger than the file."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d4c.errors import reason_of

_VERSIONS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class Unreadable(ValueError):
    """A file is not a sound .npz file; the message is a clause that says why."""


def read_arrays(file: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Read some arrays of a file that `numpy.savez` wrote.

    Args:
        file: The file, which may be of any origin.
        names: Names of the arrays.

    Returns:
        The arrays by name.

    Raises:
        Unreadable: The file is not of this form, lacks an array, or declares sizes that it does not have.
        OSError: It cannot be read.
    """
    if not file.is_file():  # a named pipe would block
        raise Unreadable("it is not a regular file")
    size = file.stat().st_size
    try:
        with zipfile.ZipFile(file) as archive:
            entries = [archive.getinfo(f"{name}.npy") for name in names]
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise Unreadable("its arrays are compressed")
            # Entries may lie on one another.
            if sum(max(entry.file_size, entry.compress_size) for entry in entries) > size:
                raise Unreadable("its arrays are larger than the file")
            return {entry.filename.removesuffix(".npy"): _array(archive.read(entry)) for entry in entries}
    except (Unreadable, OSError):
        raise
    except Exception as error:  # damaged zip files and headers of arrays raise nearly every kind
        raise Unreadable(reason_of(error)) from None


def _array(data: bytes) -> NDArray[Any]:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in _VERSIONS:
        raise Unreadable(f"an array has version {version}")
    shape, fortran, dtype = _VERSIONS[version](stream)
    rest = data[stream.tell() :]
    if fortran or dtype.hasobject or dtype.names is not None or dtype.subdtype is not None:
        raise Unreadable("an array holds more than plain numbers or strings in C order")
    if any(side < 0 for side in shape) or prod(shape) * dtype.itemsize != len(rest) or len(shape) > 8:
        raise Unreadable(f"an array declares the shape {list(shape)[:8]}, which its bytes do not have")
    return np.frombuffer(rest, dtype).reshape(shape) if dtype.itemsize else np.zeros(shape, dtype)
