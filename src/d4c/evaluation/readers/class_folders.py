"""Reads one folder of images for each class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from d4c.errors import DataError
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.readers.reader import Reader
from d4c.evaluation.readers.words.class_names import LISTS, MAPPINGS, are_synsets, nameless, names_from
from d4c.picture_files import none_readable, pictures_below
from d4c.pictures import unreadable

SPLITS = frozenset(("train", "training", "val", "valid", "validation", "dev", "test", "testing"))
"""Names of folders that divide a dataset, in lower case."""


def read_folder(spec: str, path: Path) -> Dataset:
    """Read one sub-folder per class; "_" in a folder's name is a space in the class name.

    Folders that are called by WordNet ids, as ImageNet's are, need a file of names (see `class_names`) beside them or
    beside their parent.

    Args:
        spec: Name of the dataset.
        path: Parent of the folders, with names in a file of `class_names.LISTS` if there is one.

    Returns:
        The images below the folders, in sorted order.

    Raises:
        DataError: There are no folders or no images, a class has files and no picture that can be read, the folders are
            splits of a dataset and not classes, or a file of names does not fit the folders or is missing.
    """
    folders = class_folders(path) if path.is_dir() else []
    if not folders:
        raise DataError(
            f"{path} holds no folders, expected one folder of images for each class; give their parent, or put "
            "pictures without classes into one folder in it."
        )
    splits = [folder for folder in folders if folder.name.lower() in SPLITS and class_folders(folder)]
    if len(splits) == len(folders) or len(splits) > 1:
        names = ", ".join(folder.name for folder in splits)
        raise DataError(
            f"{path} is divided into {names}, expected one folder of images for each class; give one of these parts, "
            f"such as {spec.partition(':')[0]}:{splits[-1]}."
        )
    return tree_dataset(spec, folders, range(len(folders)), _class_names(path, [folder.name for folder in folders]))


def _class_names(path: Path, ids: list[str]) -> list[str]:
    """The name of each folder: that in a file, or what it is called."""
    synsets = are_synsets(ids)
    names = names_from(path, ids, (*LISTS, *MAPPINGS) if synsets else LISTS)
    if synsets:
        names = names or names_from(path.resolve().parent, ids, MAPPINGS)
        if names is None:
            raise nameless(path)
    if names is None:
        # Names that are not UTF-8 come as surrogates, which no tokenizer takes.
        return [os.fsencode(each).decode("utf-8", "replace").replace("_", " ") for each in ids]
    missing = [each for each in ids if each not in names]
    if missing:
        raise DataError(f"{path / missing[0]} has no name in the file of class names; complete the file.")
    return [names[each] for each in ids]


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


FOLDER = Reader(
    "folder:DIR",
    "one sub-folder of images per class, names optionally in classes.txt or a file of ImageNet's",
    read_folder,
    # ImageNet's files lie beside its folders val and train.
    parts=("", *(f"../{name}" for name in MAPPINGS)),
)
