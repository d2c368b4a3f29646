"""Reads the beginning of a file, however large a limit its format has."""

from __future__ import annotations

import os
from typing import BinaryIO


def read_up_to(stream: BinaryIO, longest: int) -> bytes:
    """Read a file up to `longest` bytes and one more, which tells that it is longer.

    `read(n)` takes n bytes of memory before it reads any; here a small file takes little.
    """
    return stream.read(min(longest, os.fstat(stream.fileno()).st_size) + 1)
