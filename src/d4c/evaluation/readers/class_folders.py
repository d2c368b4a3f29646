"""Reads one folder of images for each class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from d4c.errors import DataError
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.readers.reader import Reader
from d4c.picture_files import none_readable, pictures_below
from d4c.pictures import unreadable
from d4c.storage.files import read_text

SPLITS = frozenset(("train", "training", "val", "valid", "validation", "dev", "test", "testing"))
"""Names of folders that divide a dataset, in lower case."""


def read_folder(spec: str, path: Path) -> Dataset:
    """Read one sub-folder per class; "_" in a folder's name is a space in the class name.

    Args:
        spec: Name of the dataset.
        path: Parent of the folders, with class names in classes.txt if there is such a file.

    Returns:
        The images below the folders, in sorted order.

    Raises:
        DataError: There are no folders or no images, a class has files and no picture that can be read, the folders are
            splits of a dataset and not classes, or classes.txt does not fit the folders.
    """
    folders = class_folders(path) if path.is_dir() else []
    if not folders:
        raise DataError(f"{path} holds no folders, expected one folder of images for each class; give their parent.")
    splits = [folder for folder in folders if folder.name.lower() in SPLITS and class_folders(folder)]
    if len(splits) == len(folders) or len(splits) > 1:
        names = ", ".join(folder.name for folder in splits)
        raise DataError(
            f"{path} is divided into {names}, expected one folder of images for each class; give one of these parts, "
            f"such as {spec.partition(':')[0]}:{splits[-1]}."
        )
    # Names that are not UTF-8 come as surrogates, which no tokenizer takes.
    classes = [os.fsencode(folder.name).decode("utf-8", "replace").replace("_", " ") for folder in folders]
    if (path / "classes.txt").is_file():
        classes = text_lines(path / "classes.txt")
        if len(classes) != len(folders):
            raise DataError(
                f"{path / 'classes.txt'} names {len(classes)} classes, expected {len(folders)}, one for each folder; "
                "write one name per line in the sorted order of the folders."
            )
    return tree_dataset(spec, folders, range(len(folders)), classes)


def class_folders(path: Path) -> list[Path]:
    """List the sub-folders of a folder in sorted order, without hidden ones."""
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def tree_dataset(spec: str, folders: Sequence[Path], indices: Sequence[int], classes: Sequence[str]) -> Dataset:
    """Make a dataset of the images below folders, in sorted order.

    Args:
        spec: Name of the dataset.
        folders: The folders.
        indices: The class of each folder, as an index into `classes`.
        classes: Names of the classes.

    Returns:
        The dataset.

    Raises:
        DataError: There are no images, or a folder has files and no picture that can be read.
    """
    labeled = [
        (file, index) for folder, index in zip(folders, indices, strict=True) for file in _pictures_of_class(folder)
    ]
    paths = [file for file, _ in labeled]
    labels = np.array([index for _, index in labeled], np.int64)
    return Dataset(spec, tuple(classes), labels, lambda i: paths[i], location=lambda i: str(paths[i]))


def _pictures_of_class(folder: Path) -> list[Path]:
    """List the pictures below a folder in sorted order, at least one of which has a beginning that can be read."""
    pictures = sorted(pictures_below(folder))
    if not pictures and any(entry.is_file() and not entry.name.startswith(".") for entry in folder.iterdir()):
        raise DataError(f"{folder} holds files and none of them is a picture; put pictures of the class there.")
    skipped: dict[Path, str] = {}
    for picture in pictures:
        reason = unreadable(picture)
        if reason is None:
            break
        skipped[picture] = reason
    else:
        if pictures:
            raise none_readable(folder, skipped)
    return pictures


def text_lines(path: Path) -> list[str]:
    """Read the lines of a UTF-8 text file that are not blank; raise DataError for other encodings."""
    try:
        return [line.strip() for line in read_text(path).splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text, expected lines of text; save it as UTF-8.") from None


FOLDER = Reader("folder:DIR", "one sub-folder of images per class, class names optionally in classes.txt", read_folder)
