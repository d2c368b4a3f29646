"""The pictures of a folder with their embeddings, which can be searched."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from d4c.errors import DataError
from d4c.picture_files import PICTURE_SUFFIXES, none_readable, pictures_below
from d4c.pictures import opened_picture
from d4c.progress import Progress
from d4c.runtime.embeddings import Entry, Stamp, read_entries, write_entries
from d4c.runtime.picture_index import MOST_MATCHES, PictureIndex, index_file, open_index, picture_key
from d4c.runtime.queries import Query
from d4c.runtime.runtime_clip import RuntimeCLIP
from d4c.storage.siblings import check_writable
from d4c.zeroshot.classification import unit_rows

DEFAULT_NAME = ".d4c-search.npz"
BATCH = 32
OPTION = "--embeddings"
"""The option of the command line that names the file of embeddings."""
EXACT_UP_TO = 100_000
"""Pictures up to which each is compared with a query, which takes some hundredths of a second."""
SAVE_EVERY = 1024
"""Pictures between two saves of a long update, so that stopping it loses little; more where a save takes longer."""


@dataclass(frozen=True)
class Match:
    """A picture, by its path relative to the folder, and the cosine of its embedding with the query's."""

    path: str
    score: float


@dataclass(frozen=True)
class Answer:
    """What was found for a query, by the name of the query; the best match first."""

    query: str
    matches: tuple[Match, ...]


@dataclass(frozen=True)
class Gallery:
    """The pictures of a folder that can be searched.

    Args:
        paths: Paths of the N pictures relative to the folder, sorted.
        embeddings: Their unit embeddings [N, D].
        skipped: Why a file does not decode, by path.
        embedded: Number of pictures that were new or changed.
        index: Finds candidates for a query; without it every picture is one.
    """

    paths: tuple[str, ...]
    embeddings: NDArray[np.float32]
    skipped: dict[str, str]
    embedded: int
    index: PictureIndex | None = None

    def search(self, query: Query, top: int = 10) -> list[Match]:
        """Find the pictures that match a query best, by comparing it with every one, or with candidates of the index.

        Args:
            query: What to look for, made by the model that embedded the pictures.
            top: Number of matches to return.

        Returns:
            At most `top` matches, best first; equal ones are sorted by path.
        """
        rows: Sequence[int] = range(len(self.paths))
        embeddings = self.embeddings
        if self.index and top <= MOST_MATCHES:
            rows = self.index.nearest(query.embedding, 2 * top)
            embeddings = embeddings[rows]
        # Unlike a product, it gives equal rows equal scores.
        scores = np.einsum("nd,d->n", embeddings, query.embedding)
        return [Match(self.paths[rows[i]], float(scores[i])) for i in np.argsort(-scores, kind="stable")[:top]]


def open_gallery(
    model: RuntimeCLIP,
    folder: str | Path,
    file: str | Path | None = None,
    *,
    progress: Progress | None = None,
) -> Gallery:
    """Bring a file of embeddings up to date with the pictures below a folder, and read it.

    A picture counts as unchanged while its size and its time of change are the same; for another model all are embedded
    again. Hidden files and folders are left out.

    Args:
        model: Embeds the pictures.
        folder: Folder with the pictures.
        file: Where embeddings are kept, by default .d4c-search.npz in the folder.
        progress: Called with the new pictures done and their number; then, beyond 100,000 pictures, the same for their
            index.

    Returns:
        The pictures with their embeddings.

    Raises:
        DataError: There is no picture to search, or `file` is damaged or something else.
        ArtifactError: `file` cannot be written; said before any work.
    """
    root = Path(folder)
    store = root / DEFAULT_NAME if file is None else Path(file)
    stamps = scan(root)
    fingerprint = model.exported.fingerprint
    stored = read_entries(store, fingerprint, model.exported.embed_dim)
    entries = {path: entry for path, entry in stored.items() if stamps.get(path) == entry.stamp}
    outdated = len(entries) < len(stored)
    new = [path for path in stamps if path not in entries]
    if new or outdated:
        check_writable(store, f"name a file for the embeddings with {OPTION}")
    skipped: dict[str, str] = {}
    unsaved = 0
    try:
        for start in range(0, len(new), BATCH):
            batch = new[start : start + BATCH]
            rows = _embed(model, root, batch, skipped)
            entries.update({path: Entry(stamps[path], row) for path, row in rows})
            if progress:
                progress(start + len(batch), len(new))
            unsaved += len(rows)
            if unsaved >= max(SAVE_EVERY, len(entries) / 10):  # every save writes all entries
                write_entries(store, fingerprint, entries)
                unsaved = 0
    except KeyboardInterrupt:
        if entries:
            write_entries(store, fingerprint, entries)
        raise
    if not entries:
        raise none_readable(root, skipped)
    embedded = len(new) - len(skipped)
    if embedded or outdated:
        write_entries(store, fingerprint, entries)
    paths = tuple(sorted(entries))
    embeddings = np.stack([entries[path].embedding for path in paths])
    index = None
    if len(paths) > EXACT_UP_TO:
        keys = [picture_key(fingerprint, path, entries[path].stamp) for path in paths]
        index = open_index(index_file(store), keys, embeddings, progress)
    return Gallery(paths, embeddings, skipped, embedded, index)


def check_folder(root: Path) -> None:
    """Raise DataError if there is no folder to search."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; give one with pictures.")


def scan(root: Path) -> dict[str, Stamp]:
    """Return the stamps of all pictures below a folder by their relative path, in sorted order.

    Raises:
        DataError: There is no folder, or no picture in it.
    """
    check_folder(root)
    stamps = {}
    for path in sorted(pictures_below(root)):
        with suppress(FileNotFoundError):  # removed since the folder was listed
            status = path.stat()
            stamps[path.relative_to(root).as_posix()] = Stamp(status.st_size, status.st_mtime_ns)
    if not stamps:
        raise DataError(
            f"{root} holds no pictures, expected files that end in {', '.join(PICTURE_SUFFIXES)}; give another folder."
        )
    return stamps


def _embed(
    model: RuntimeCLIP, root: Path, paths: Sequence[str], skipped: dict[str, str]
) -> list[tuple[str, NDArray[np.float32]]]:
    """The unit embeddings of the pictures that decode; the errors of the others go into `skipped`."""

    def read(path: str) -> NDArray[np.float32] | DataError:
        try:
            with opened_picture(root / path, path) as picture:
                return model.preprocess(picture)
        except DataError as error:
            return error

    pixels: dict[str, NDArray[np.float32]] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for path, picture in zip(paths, pool.map(read, paths), strict=True):
            if isinstance(picture, DataError):
                skipped[path] = str(picture)
            else:
                pixels[path] = picture
    if not pixels:
        return []
    rows = []
    for path, embedding in zip(pixels, unit_rows(model.encode_image(list(pixels.values()))), strict=True):
        if np.isfinite(embedding).all():
            rows.append((path, embedding))
        else:
            skipped[path] = f"{path} has an embedding that is not finite; leave it out or export the model again."
    return rows
