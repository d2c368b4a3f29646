"""`load_dataset`: finds the reader of a spec in a table. To add a dataset, write a reader and list it here.

Help texts come from the table, so nothing here imports torch or pyarrow before a dataset is read.
"""

from __future__ import annotations

from pathlib import Path

from d4c.errors import DataError, SettingError, reason_of
from d4c.evaluation.dataset import AnyDataset, CaptionedDataset, Dataset
from d4c.evaluation.readers.caption_table import CAPTIONS
from d4c.evaluation.readers.cifar import CIFAR10, CIFAR100
from d4c.evaluation.readers.class_folders import FOLDER
from d4c.evaluation.readers.demo_pack import DEMO
from d4c.evaluation.readers.flickr_text import FLICKR
from d4c.evaluation.readers.imagenet1k import IMAGENET1K
from d4c.evaluation.readers.karpathy import KARPATHY
from d4c.evaluation.readers.parquet_file import PARQUET
from d4c.evaluation.readers.reader import Reader
from d4c.evaluation.readers.webdataset import WEBDATASET

READERS = {
    reader.kind: reader
    for reader in (
        *(DEMO, PARQUET, FOLDER, CIFAR10, CIFAR100, IMAGENET1K),
        *(WEBDATASET, CAPTIONS, KARPATHY, FLICKR),
    )
}


def load_dataset(spec: str | Dataset) -> Dataset:
    """Read the dataset that a spec names, whose images have one class each.

    Args:
        spec: "demo", "folder:DIR" or another form in `READERS`; `dataset_help` explains them all. A `Dataset` is
            returned unchanged.

    Returns:
        The dataset, whose images are read one at a time.

    Raises:
        SettingError: The spec has none of these forms.
        DataError: The data does not exist or cannot be used, or its images do not have one class each.
    """
    data = load_pictures(spec)
    if not isinstance(data, Dataset):
        what = "captions" if isinstance(data, CaptionedDataset) else "any number of classes each"
        raise DataError(f"The images of {data.name} have {what}, expected one class each; give another dataset.")
    return data


def load_pictures(spec: str | AnyDataset) -> AnyDataset:
    """Read the dataset that a spec names, whether its images have a class, several classes or captions.

    Args:
        spec: As for `load_dataset`. A dataset is returned unchanged.

    Raises:
        SettingError: The spec has none of these forms.
        DataError: The data does not exist or cannot be used.
    """
    if not isinstance(spec, str):
        return spec
    reader, path = find_data(spec)
    return reader.read(spec, path)


def find_data(spec: str) -> tuple[Reader, Path]:
    """Return the reader of a spec and the path of its data, which exists; "demo" has none.

    Raises:
        SettingError: The spec has none of the forms in `READERS`.
        DataError: The data does not exist.
    """
    kind, colon, path_text = spec.partition(":")
    reader = READERS.get(kind)
    if reader is None or (not path_text if reader.takes_path else colon):
        *most, last = (repr(known.form) for known in READERS.values())
        raise SettingError(f"The dataset is {spec!r}, expected {', '.join(most)} or {last}; give one of these.")
    try:
        path = Path(path_text).expanduser()
        exists = path.exists()
    except (RuntimeError, ValueError, OSError) as error:  # "~nobody", a zero byte, a name too long
        raise DataError(f"The path of {spec!r} cannot be used ({reason_of(error)}); correct it.") from None
    if not exists:
        raise DataError(f"{path} does not exist, expected the data of {spec!r}; correct the path.")
    return reader, path


def dataset_help() -> str:
    """Return one line with every form of a spec and what it reads."""
    return "; ".join(f"{reader.form} ({reader.summary})" for reader in READERS.values()) + "."
