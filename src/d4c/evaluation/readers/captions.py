"""What files of captions have in common: they name pictures that lie beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from d4c.errors import DataError
from d4c.evaluation.dataset import CaptionedDataset

FOLDERS = ("", "images", "Images", "flickr30k-images", "Flicker8k_Dataset")
"""Where pictures may lie, seen from the file of captions."""


def captioned(spec: str, file: Path, captions: Mapping[str, Sequence[str]]) -> CaptionedDataset:
    """Make a dataset of the pictures that a file names.

    Args:
        spec: Name of the dataset.
        file: The file of captions.
        captions: Captions by path of a picture, relative to the folder of the file or to one of `FOLDERS` in it.

    Returns:
        The dataset, in the order of the captions.

    Raises:
        DataError: There are no captions, or the first picture does not exist.
    """
    if not captions:
        raise DataError(f"{file} holds no captions, expected at least one; give another file.")
    first = next(iter(captions))
    for folder in FOLDERS:
        root = file.parent / folder
        if _exists(root / first):
            break
    else:
        raise DataError(
            f"The picture {first[:200]!r} of {file} does not exist, expected it in {file.parent} or its folder images; "
            "put the pictures there."
        )
    paths = [root / name for name in captions]
    texts = tuple(tuple(" ".join(text.split()) for text in each) for each in captions.values())
    return CaptionedDataset(spec, texts, lambda i: paths[i], location=lambda i: str(paths[i]))


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, a zero byte
        return False
