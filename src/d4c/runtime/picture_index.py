"""Finds the pictures of a large gallery that are near a query without a look at each: usearch's graph of neighbors.

Its file lies in the cache folder of the user, never beside the pictures: usearch checks what it reads less than d4c
does, so it must not read files of others.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from d4c.errors import warn
from d4c.progress import Progress
from d4c.runtime.embeddings import Stamp
from d4c.storage.files import atomic_file

EXPANSION = 256
"""Candidates that a search keeps; it then finds 0.99 of the nearest ten pictures (benchmarks/picture_index)."""
MOST_MATCHES = EXPANSION // 4
"""Matches up to which few are missed; for more, every picture is compared."""
MOST_REMOVED = 0.2
"""Share of removed pictures from which on the graph is made anew, since each leaves a hole in it."""
CHUNK = 4096
"""Pictures between two reports of progress."""


@dataclass(frozen=True)
class PictureIndex:
    """The index of a gallery.

    Args:
        graph: The index of usearch, whose keys stand for a picture as it was embedded.
        rows: The row of each key in the gallery.
    """

    graph: Any
    rows: Mapping[int, int]

    def nearest(self, embedding: NDArray[np.float32], count: int) -> list[int]:
        """Return the rows of almost always the nearest pictures, sorted.

        Args:
            embedding: Unit embedding [D].
            count: Number of rows.
        """
        return sorted(self.rows[int(key)] for key in self.graph.search(embedding, count).keys)


def open_index(
    file: Path, keys: Sequence[int], embeddings: NDArray[np.float32], progress: Progress | None = None
) -> PictureIndex | None:
    """Bring an index up to date and open it; stopped by Ctrl-C, it resumes where it stopped.

    Args:
        file: Where it is kept.
        keys: What `picture_key` says of each of N pictures.
        embeddings: Their unit embeddings [N, D].
        progress: Called with the new pictures done and their number.

    Returns:
        The index, or None with a warning if usearch is not installed.
    """
    try:
        from usearch.index import Index
    except ImportError:
        warn(f"A query is compared with each of {len(keys)} pictures; pip install 'd4c[index]' makes that faster.")
        return None
    rows = {key: row for row, key in enumerate(keys)}
    graph = _stored(Index, file, embeddings.shape[1])
    kept = set() if graph is None else {int(key) for key in graph.keys}
    removed = kept - rows.keys()
    if graph is None or len(removed) > MOST_REMOVED * len(kept):
        graph = Index(ndim=embeddings.shape[1], metric="cos", dtype="f16", expansion_search=EXPANSION)
        kept, removed = set(), set()
    if removed:
        graph.remove(_array(removed))
    new = _array(rows.keys() - kept)
    try:
        for start in range(0, len(new), CHUNK):
            part = new[start : start + CHUNK]
            graph.add(part, embeddings[[rows[int(key)] for key in part]])
            if progress:
                progress(start + len(part), len(new))
    finally:
        if removed or len(new):
            _write(graph, file)
    return PictureIndex(graph, rows)


def picture_key(model: str, path: str, stamp: Stamp) -> int:
    """Return a number of 64 bits that stands for a picture as a model embedded it."""
    text = f"{model}\0{path}\0{stamp.size}\0{stamp.changed}"
    return int.from_bytes(hashlib.blake2b(os.fsencode(text), digest_size=8).digest())


def index_file(store: Path) -> Path:
    """Return where the index of a file of embeddings is kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    name = hashlib.sha256(os.fsencode(store.resolve())).hexdigest()[:32]
    return cache / "d4c" / f"{name}.usearch"


def _array(keys: Set[int]) -> NDArray[np.uint64]:
    return np.fromiter(sorted(keys), np.uint64, len(keys))


def _stored(library: Any, file: Path, dimensions: int) -> Any:
    """The index as it was kept, or None if there is none of this width or it is damaged."""
    try:
        graph = library.restore(str(file))
    except (RuntimeError, ValueError):
        return None
    if graph is None or graph.ndim != dimensions:
        return None
    graph.expansion_search = EXPANSION
    return graph


def _write(graph: Any, file: Path) -> None:
    """Keep the index for the next time, if the cache folder can be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as new:
            graph.save(str(new))
    except OSError as error:
        warn(f"{file} cannot be written ({error.strerror}), so that the index is made again every time.")
