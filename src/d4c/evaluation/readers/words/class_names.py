"""Names of classes whose folders are called by ids: a list in the order of the folders, or a file that comes with
ImageNet.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from d4c.errors import DataError
from d4c.evaluation.readers.words.text_lines import text_lines
from d4c.reading.json_file import read_json
from d4c.reading.schema import List, Table, Text, check

LISTS = ("classes.txt", "classnames.txt")
"""One name per line in the sorted order of the folders; the second one is CLIP_benchmark's."""
MAPPINGS = ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt", "imagenet_class_index.json")
"""Names by WordNet id: Kaggle's, Caffe's, Tiny ImageNet's and Keras's."""
SYNSET = re.compile(r"n\d{8}")
"""The WordNet id of a noun, such as n01440764."""

DISTINCT = {
    "n02012849": "crane bird",
    "n03126707": "construction crane",
    "n02113186": "Cardigan Welsh corgi",
    "n03710721": "one-piece bathing suit",
}
"""Names of classes that the usual files call like another class; the other "cardigan" and "maillot" keep theirs."""


def are_synsets(ids: Sequence[str]) -> bool:
    """Whether folders are called by WordNet ids, which say nothing to a text tower."""
    return all(SYNSET.fullmatch(each) for each in ids)


def names_from(folder: Path, ids: Sequence[str], files: Sequence[str] = (*LISTS, *MAPPINGS)) -> dict[str, str] | None:
    """Read names of classes from the first of some files that is in a folder.

    Args:
        folder: The folder.
        ids: Names of the folders with pictures, sorted.
        files: The files, each of `LISTS` or `MAPPINGS`.

    Returns:
        Names by id, which may be of more classes than there are folders; None if there is no such file.

    Raises:
        DataError: A file does not read as expected, or a list has another number of names than there are folders.
    """
    file = next((folder / name for name in files if (folder / name).is_file()), None)
    if file is None:
        return None
    if file.suffix == ".json":
        return _indexed(file)
    rows = [line.split(None, 1) for line in text_lines(file)]
    if rows and all(len(row) == 2 and SYNSET.fullmatch(row[0]) for row in rows):
        return {wnid: DISTINCT.get(wnid, names.split(",")[0].strip()) for wnid, names in rows}
    if file.name in MAPPINGS:
        raise DataError(
            f"{file} is no list of WordNet ids and names, expected lines like 'n01440764 tench'; correct it."
        )
    names = text_lines(file)
    if len(names) != len(ids):
        raise DataError(
            f"{file} names {len(names)} classes, expected {len(ids)}, one for each folder; write one name per line in "
            "the sorted order of the folders."
        )
    return dict(zip(ids, names, strict=True))


def nameless(where: Path) -> DataError:
    """Say that folders are called by WordNet ids and that no file names them."""
    return DataError(
        f"The folders in {where} are called by WordNet ids such as n01440764 and no file there names them, expected "
        f"{', '.join(LISTS)}, {', '.join(MAPPINGS[:-1])} or {MAPPINGS[-1]}; put one of them there."
    )


def _indexed(file: Path) -> dict[str, str]:
    """Names of {"0": ["n01440764", "tench"], ...}."""
    rows = read_json(file, DataError, "download it again")
    check(rows, Table(List(Text(), 2, 2)), str(file), DataError, "download it again")
    return {wnid: DISTINCT.get(wnid, name.replace("_", " ")) for wnid, name in rows.values()}
