"""What tells a model and a dataset apart from others without loading them, so that a finished run answers at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from d4c.errors import D4CError
from d4c.evaluation.load_dataset import find_data
from d4c.evaluation.readers.reader import Reader
from d4c.storage.files import sha256
from d4c.storage.manifest import fingerprint

SETTINGS = (".json", "merges.txt", "vocab.txt")
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
"""Ends of the names of files that may belong to a model."""
DEMO = Path(str(files("d4c.models") / "demo"))


def model_origin(source: str, pretrained: str | None) -> str | None:
    """A fingerprint of the content of every file that `d4c.load` may read for a source.

    None where the files are known only after a download or a look-up in another library's catalog: then the weights
    have to be loaded to be told apart.
    """
    if source.startswith("hf-hub:") or pretrained is not None:
        return None
    path = Path(source)
    demo = DEMO / f"{source}.safetensors"
    if demo in DEMO.glob("*.safetensors"):
        read = [demo]
    elif path.is_file():
        # An index of shards names other files.
        read = [path, *_beside(path.parent, SETTINGS if path.suffix != ".json" else (*SETTINGS, *WEIGHTS))]
    elif path.is_dir():
        read = _beside(path, (*SETTINGS, *WEIGHTS))
    else:
        return None
    return fingerprint([[file.name, sha256(file)] for file in read])


def _beside(folder: Path, ends: tuple[str, ...]) -> list[Path]:
    """The files of a folder whose names end so, in order."""
    return sorted(file for file in folder.iterdir() if file.name.endswith(ends) and file.is_file())


def data_origin(spec: str) -> str | None:
    """A fingerprint of all that the reader of a dataset may read: names and content of files, names of folders."""
    try:
        reader, path = find_data(spec)
    except D4CError:
        return None
    path = path if reader.takes_path else DEMO / "eval_fluent3d.parquet"
    if reader.names_pictures:
        return _origin_with_pictures(reader, spec, path)
    if path.is_file():
        return sha256(path)
    return fingerprint([list(_content(path / part, part, ())) for part in reader.parts])


def _origin_with_pictures(reader: Reader, spec: str, path: Path) -> str | None:
    """The fingerprint of a file and of the pictures that it names, None for one that is missing."""
    try:
        dataset = reader.read(spec, path)
    except D4CError:
        return None
    pictures = [Path(str(dataset.read(i))) for i in range(len(dataset))]
    return fingerprint([sha256(path), [sha256(picture) if picture.is_file() else None for picture in pictures]])


def _content(path: Path, name: str, above: tuple[str, ...]) -> Iterator[list[str | None]]:
    """Pairs of name and SHA-256 of every file at or below a path, links followed, and of name and None of folders."""
    if path.is_file():
        yield [name, sha256(path)]
    elif path.is_dir() and (real := os.path.realpath(path)) not in above:
        yield [name, None]
        for entry in sorted(path.iterdir()):
            yield from _content(entry, f"{name}/{entry.name}", (*above, real))
