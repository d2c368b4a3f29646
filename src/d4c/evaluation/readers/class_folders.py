"""Reads one folder of images for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from d4c.errors import DataError
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.readers.reader import Reader
from d4c.pictures import IMAGE_SUFFIXES


def read_folder(spec: str, path: Path) -> Dataset:
    """Read one sub-folder per class; "_" in a folder's name is a space in the class name.

    Args:
        spec: Name of the dataset.
        path: Parent of the folders, with class names in classes.txt if there is such a file.

    Returns:
        The images below the folders, in sorted order.

    Raises:
        DataError: There are no folders or no images, or classes.txt does not fit the folders.
    """
    folders = class_folders(path) if path.is_dir() else []
    if not folders:
        raise DataError(f"{path} holds no folders, expected one folder of images for each class; give their parent.")
    classes = [folder.name.replace("_", " ") for folder in folders]
    if (path / "classes.txt").exists():
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
        DataError: There are no images.
    """
    labeled = [
        (file, index)
        for folder, index in zip(folders, indices, strict=True)
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in IMAGE_SUFFIXES
    ]
    paths = [file for file, _ in labeled]
    labels = np.array([index for _, index in labeled], np.int64)
    return Dataset(spec, tuple(classes), labels, lambda i: Image.open(paths[i]), location=lambda i: str(paths[i]))


def text_lines(path: Path) -> list[str]:
    """Read the lines of a UTF-8 text file that are not blank; raise DataError for other encodings."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text, expected class names; save it as UTF-8.") from None


FOLDER = Reader("folder:DIR", "one sub-folder of images per class, class names optionally in classes.txt", read_folder)
