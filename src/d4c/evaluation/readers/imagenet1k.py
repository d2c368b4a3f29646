"""Reads ImageNet-1k's validation images, as torchvision lays them out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from d4c.errors import DataError
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.readers.class_folders import class_folders, tree_dataset
from d4c.evaluation.readers.reader import Reader
from d4c.evaluation.readers.words.class_names import LISTS, MAPPINGS, nameless, names_from
from d4c.evaluation.readers.words.openai_prompts import IMAGENET_TEMPLATES


def read_imagenet(spec: str, path: Path) -> Dataset:
    """Read the validation images of ImageNet-1k from one folder per WordNet id, as torchvision lays them out.

    The prompts are OpenAI's.

    Args:
        spec: Name of the dataset.
        path: Folder with val/<wnid>/*.JPEG and a file of class names (see `class_names`).

    Returns:
        The images in sorted order.

    Raises:
        DataError: There are no images, or not exactly 1000 class names for them.
    """
    folders = class_folders(path / "val") if (path / "val").is_dir() else []
    if not folders:
        raise DataError(f"{path} has no folders val/<wnid>, expected 1000 with the validation images; move them there.")
    names = names_from(path, [folder.name for folder in folders])
    if names is None:
        raise nameless(path)
    order = {wnid: index for index, wnid in enumerate(sorted(names))}
    missing = [folder.name for folder in folders if folder.name not in order]
    if len(order) != 1000 or missing:
        example = f", and {missing[0]} has no name" if missing else ""
        raise DataError(
            f"{path} names {len(order)} classes{example}, expected 1000 with all of val/<wnid>; complete it."
        )
    indices = [order[folder.name] for folder in folders]
    dataset = tree_dataset(spec, folders, indices, [names[wnid] for wnid in order])
    return replace(dataset, templates=IMAGENET_TEMPLATES, verbatim=True)


IMAGENET1K = Reader(
    "imagenet1k:DIR",
    "val/<wnid>/*.JPEG beside a file of class names, OpenAI's 80 prompts",
    read_imagenet,
    parts=("val", *LISTS, *MAPPINGS),
)
