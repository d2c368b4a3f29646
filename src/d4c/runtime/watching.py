"""Notices when the pictures of a folder change."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from d4c.runtime.gallery import scan

INTERVAL = 2.0
"""Seconds between two looks at the folder."""


def changes(folder: Path, wait: Callable[[], object] = lambda: time.sleep(INTERVAL)) -> Iterator[None]:
    """Yield at once, and again whenever pictures were added, changed or removed since the last time.

    What changes while the caller works is noticed afterwards.

    Args:
        folder: Folder with the pictures.
        wait: Called between two looks at the folder.

    Raises:
        DataError: There is no picture in the folder, or none any more.
    """
    while True:
        stamps = scan(folder)
        yield
        while scan(folder) == stamps:
            wait()
