"""`load_dataset`: what a spec names, by the table of readers. To add a dataset, write a reader and list it here.

Nothing here needs torch or pyarrow before a dataset is read, so that help texts are made from the table.
"""

from __future__ import annotations

from pathlib import Path

from d4c.errors import DataError, SettingError
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.readers.cifar import CIFAR10, CIFAR100
from d4c.evaluation.readers.class_folders import FOLDER
from d4c.evaluation.readers.demo_pack import DEMO
from d4c.evaluation.readers.imagenet1k import IMAGENET1K
from d4c.evaluation.readers.parquet_file import PARQUET

READERS = {reader.kind: reader for reader in (DEMO, PARQUET, FOLDER, CIFAR10, CIFAR100, IMAGENET1K)}


def load_dataset(spec: str | Dataset) -> Dataset:
    """The dataset that a spec names.

    Args:
        spec: "demo", "folder:DIR" or another form in `READERS`; `dataset_help` explains them all. A `Dataset` is
            returned as it is.

    Raises:
        SettingError: If the spec has none of these forms.
        DataError: If the data is not there or cannot be used.
    """
    if isinstance(spec, Dataset):
        return spec
    kind, colon, where = spec.partition(":")
    reader = READERS.get(kind)
    if reader is None or (not where if reader.takes_path else colon):
        *most, last = (repr(known.form) for known in READERS.values())
        raise SettingError(f"The dataset is {spec!r}, expected {', '.join(most)} or {last}; give one of these.")
    path = Path(where).expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist, expected the data of {spec!r}; correct the path.")
    return reader.read(spec, path)


def dataset_help() -> str:
    """Every form of a spec and what it reads, in one line."""
    return "; ".join(f"{reader.form} ({reader.summary})" for reader in READERS.values()) + "."
