"""Reads the webdataset layout of CLIP_benchmark in a local folder: numbered tar files, with names and prompts beside.

    test/nshards.txt, test/0.tar, test/1.tar, ...
    classnames.txt, zeroshot_classification_templates.txt, dataset_type.txt

A sample is some files of one name in a tar file: a picture with .cls (the number of its class), .npy (one number for
each class, in sets of type multilabel) or .txt (a caption per line, in sets of type retrieval).
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from d4c.errors import DataError, reason_of
from d4c.evaluation.dataset import AnyDataset, CaptionedDataset, Dataset, TaggedDataset
from d4c.evaluation.readers.reader import Reader
from d4c.evaluation.readers.words.text_lines import text_lines
from d4c.templates import PHOTO_TEMPLATES

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLIT = "test"
NAMES, TEMPLATES, TYPE = "classnames.txt", "zeroshot_classification_templates.txt", "dataset_type.txt"
PICTURES = ("webp", "png", "jpg", "jpeg")
TARGETS = {"classification": "cls", "multilabel": "npy", "retrieval": "txt"}
"""End of the file that says what is in a picture, by type of dataset."""
MOST_SHARDS = 100_000
LARGEST_TARGET = 1 << 20
"""Bytes of a file that says what is in a picture."""


@dataclass(frozen=True)
class Entry:
    """Bytes of a file in a tar file, which is not compressed."""

    shard: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.name} in {self.shard}"

    def read(self) -> bytes:
        """Read the bytes."""
        with self.shard.open("rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.size)


def read_webdataset(spec: str, path: Path) -> AnyDataset:
    """Read the test split; pictures stay in their tar files until they are used.

    Args:
        spec: Name of the dataset.
        path: Folder with the split and the files of names and prompts.

    Returns:
        Images with one class each, with tags or with captions, in the order of the tar files. Prompts are used letter
        by letter.

    Raises:
        DataError: A file is missing or damaged, or a sample has no picture or does not say what is in it.
    """
    kind = " ".join(text_lines(path / TYPE)) if (path / TYPE).is_file() else "classification"
    if kind not in TARGETS:
        raise DataError(f"{path / TYPE} says {kind[:40]!r}, expected {', '.join(TARGETS)}; correct it.")
    samples = [_sample(files, TARGETS[kind]) for shard in _shards(path / SPLIT) for files in _index(shard)]
    pictures, targets = [picture for picture, _ in samples], [target for _, target in samples]
    where: dict[str, Callable[[int], Any]] = {
        "read": lambda i: pictures[i].read(),
        "location": lambda i: str(pictures[i]),
    }
    if kind == "retrieval":
        return CaptionedDataset(spec, tuple(_captions(entry) for entry in targets), **where)
    classes, templates = _names(path / NAMES), _templates(path / TEMPLATES)
    words: dict[str, Any] = {"templates": templates, "verbatim": True, **where}
    if kind == "multilabel":
        tags = np.array([_tags(entry, len(classes)) for entry in targets], bool).reshape(-1, len(classes))
        return TaggedDataset(spec, classes, tags, **words)
    return Dataset(spec, classes, np.array([_label(entry) for entry in targets], np.int64), **words)


def _shards(split: Path) -> list[Path]:
    """List the tar files of a split, as many as its count says."""
    file = split / "nshards.txt"
    if not file.is_file():
        raise DataError(f"{file} does not exist, expected the number of tar files; give the folder that holds {SPLIT}.")
    count = _number(file.read_bytes()[:40], str(file), MOST_SHARDS)
    shards = [split / f"{i}.tar" for i in range(count)]
    for shard in shards:
        if not shard.is_file():
            raise DataError(f"{shard} does not exist, but {file} counts {count}; get it or correct the count.")
    return shards


def _index(shard: Path) -> list[dict[str, Entry]]:
    """List the samples of a tar file: its files by the end of their names, from the first dot on."""
    samples: dict[str, dict[str, Entry]] = {}
    size = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                if not member.isreg() or member.sparse is not None:
                    continue
                folder, slash, name = member.name.rpartition("/")
                stem, _, end = name.partition(".")
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError("it is cut off")
                entry = Entry(shard, member.name, member.offset_data, member.size)
                samples.setdefault(folder + slash + stem, {})[end.lower()] = entry
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        raise DataError(f"{shard} cannot be read as a tar file ({reason_of(error)}); get it again.") from None
    return list(samples.values())


def _sample(files: dict[str, Entry], target: str) -> tuple[Entry, Entry]:
    """The picture of a sample and the file that says what is in it."""
    picture = next((files[end] for end in PICTURES if end in files), None)
    if picture is None or target not in files:
        some = next(iter(files.values()))
        raise DataError(
            f"The sample of {some} has {', '.join(files)}, expected one of {', '.join(PICTURES)} with {target}; "
            "write the tar file again."
        )
    return picture, files[target]


def _content(entry: Entry) -> bytes:
    if entry.size > LARGEST_TARGET:
        raise DataError(f"{entry} has {entry.size} bytes, expected at most {LARGEST_TARGET}; write it again.")
    return entry.read()


def _label(entry: Entry) -> int:
    return _number(_content(entry), str(entry), 1 << 30)


def _tags(entry: Entry, classes: int) -> NDArray[np.bool_]:
    try:
        values = np.load(io.BytesIO(_content(entry)), allow_pickle=False)
    except (ValueError, EOFError, OSError, TypeError, SyntaxError, MemoryError) as error:
        raise DataError(f"{entry} is not an array ({reason_of(error)}); write it again.") from None
    if not isinstance(values, np.ndarray) or values.shape != (classes,) or values.dtype.kind not in "biuf":
        raise DataError(f"{entry} does not hold {classes} numbers, one for each class; write it again.")
    return values > 0


def _captions(entry: Entry) -> tuple[str, ...]:
    lines = _content(entry).decode("utf-8", "replace").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def _names(file: Path) -> tuple[str, ...]:
    if not file.is_file():
        raise DataError(f"{file} does not exist, expected a class name per line; get the whole dataset.")
    return tuple(text_lines(file))


def _templates(file: Path) -> tuple[str, ...]:
    """The prompts, where {c} stands for the name of a class."""
    if not file.is_file():
        return PHOTO_TEMPLATES
    return tuple(line.replace("{c}", "{}") for line in text_lines(file))


def _number(text: bytes, where: str, most: int) -> int:
    digits = text.strip()
    if not digits.isdigit() or len(digits) > 12 or int(digits) > most:
        raise DataError(f"{where} holds {digits[:40]!r}, expected a number from 0 to {most}; correct it.")
    return int(digits)


WEBDATASET = Reader(
    "wds:DIR",
    "a local folder in the webdataset layout of CLIP_benchmark: classes, several classes or captions",
    read_webdataset,
    parts=(SPLIT, NAMES, TEMPLATES, TYPE),
)
