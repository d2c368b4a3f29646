"""Reads ImageNet-1k's validation images, as torchvision lays them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from d4c.errors import DataError
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.readers.class_folders import class_folders, text_lines, tree_dataset
from d4c.evaluation.readers.openai_prompts import IMAGENET_TEMPLATES
from d4c.evaluation.readers.reader import Reader
from d4c.reading.json_file import read_json
from d4c.reading.schema import List, Table, Text, check

DISTINCT = {
    "n02012849": "crane bird",
    "n03126707": "construction crane",
    "n02113186": "Cardigan Welsh corgi",
    "n03710721": "one-piece bathing suit",
}
"""Names of classes that the usual files call like another class; the other "cardigan" and "maillot" keep theirs."""


def read_imagenet(spec: str, path: Path) -> Dataset:
    """Read the validation images of ImageNet-1k from one folder per WordNet id, as torchvision lays them out.

    The prompts are OpenAI's.

    Args:
        spec: Name of the dataset.
        path: Folder with val/<wnid>/*.JPEG and a file of class names (see `imagenet_names`).

    Returns:
        The images in sorted order.

    Raises:
        DataError: There are no images, or not exactly 1000 class names for them.
    """
    folders = class_folders(path / "val") if (path / "val").is_dir() else []
    if not folders:
        raise DataError(f"{path} has no folders val/<wnid>, expected 1000 with the validation images; move them there.")
    names = imagenet_names(path, [folder.name for folder in folders])
    order = {wnid: index for index, wnid in enumerate(sorted(names))}
    nameless = [folder.name for folder in folders if folder.name not in order]
    if len(order) != 1000 or nameless:
        example = f", and {nameless[0]} has no name" if nameless else ""
        raise DataError(
            f"{path} names {len(order)} classes{example}, expected 1000 with all of val/<wnid>; complete it."
        )
    indices = [order[folder.name] for folder in folders]
    dataset = tree_dataset(spec, folders, indices, [names[wnid] for wnid in order])
    return replace(dataset, templates=IMAGENET_TEMPLATES, verbatim=True)


def imagenet_names(path: Path, wnids: Sequence[str]) -> dict[str, str]:
    """Read the class name of each WordNet id from one of the three usual text files.

    Args:
        path: Folder with classes.txt (one name per line), LOC_synset_mapping.txt or imagenet_class_index.json.
        wnids: The sorted WordNet ids, which classes.txt does not repeat.

    Returns:
        Class names by WordNet id.

    Raises:
        DataError: None of the files exists, or it does not read as expected.
    """
    if (path / "classes.txt").is_file():
        return dict(zip(wnids, text_lines(path / "classes.txt"), strict=False))
    if (path / "LOC_synset_mapping.txt").is_file():
        rows = [line.partition(" ") for line in text_lines(path / "LOC_synset_mapping.txt")]
        return {wnid: DISTINCT.get(wnid, names.split(",")[0].strip()) for wnid, _, names in rows}
    index = path / "imagenet_class_index.json"
    if not index.is_file():
        raise DataError(
            f"{path} has no class names, expected classes.txt (1000 lines in the order of the sorted wnids), "
            "LOC_synset_mapping.txt or imagenet_class_index.json; put one of them there."
        )
    rows_by_index = read_json(index, DataError, "download it again")
    # {"0": ["n01440764", "tench"], ...}
    check(rows_by_index, Table(List(Text(), 2, 2)), str(index), DataError, "download it again")
    return {wnid: DISTINCT.get(wnid, name.replace("_", " ")) for wnid, name in rows_by_index.values()}


IMAGENET1K = Reader(
    "imagenet1k:DIR",
    "val/<wnid>/*.JPEG beside a file of class names, OpenAI's 80 prompts",
    read_imagenet,
    parts=("val", "classes.txt", "LOC_synset_mapping.txt", "imagenet_class_index.json"),
)
