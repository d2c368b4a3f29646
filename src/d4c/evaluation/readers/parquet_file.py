"""Reads a Parquet file with encoded images, labels and class names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from d4c.errors import DataError
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.readers.reader import Reader
from d4c.reading.json_file import parse_json
from d4c.reading.schema import AnyText, List, check

if TYPE_CHECKING:
    import pyarrow as pa


def read_parquet(spec: str, path: Path) -> Dataset:
    """Read a file as one table in memory; images stay encoded until they are used.

    Args:
        spec: Name of the dataset.
        path: File with the columns image (encoded bytes) and label (integers), and class names as a JSON list under
            "classes" in the metadata of its schema.

    Returns:
        The images in the order of the rows.

    Raises:
        DataError: The file is not Parquet, or a column or the class names are missing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        detail = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read as Parquet ({detail}); give a complete Parquet file.") from None
    for name, fits, kind in (
        ("image", lambda t: pa.types.is_binary(t) or pa.types.is_large_binary(t), "encoded image bytes"),
        ("label", pa.types.is_integer, "integers"),
    ):
        if name not in table.column_names or not fits(table[name].type) or table[name].null_count:
            columns = ", ".join(f"{field.name}: {field.type}" for field in table.schema)
            raise DataError(
                f"{path} has the columns ({columns}), expected '{name}' with {kind} and no missing value; add it."
            )
    classes = class_names((table.schema.metadata or {}).get(b"classes"))
    if classes is None:
        raise DataError(
            f"{path} has no class names, expected a JSON list of strings in the schema metadata under 'classes'; "
            "write it there."
        )
    labels = table["label"].to_numpy().astype(np.int64)
    return Dataset(spec, classes, labels, encoded_images(table["image"]), location=lambda i: f"row {i} of {path}")


def encoded_images(column: pa.ChunkedArray) -> Callable[[int], bytes]:
    """Return a function that gives the encoded image in row i of a column of bytes."""
    return lambda i: bytes(column[i].as_py())


def class_names(text: bytes | None) -> tuple[str, ...] | None:
    """Parse a JSON list of strings; None for anything else."""
    try:
        names = parse_json(text or b"null", "the class names", DataError, "correct them")
        check(names, List(AnyText()), "the class names", DataError, "correct them")
    except DataError:
        return None
    return tuple(names)


PARQUET = Reader(
    "parquet:FILE",
    "columns image (encoded bytes) and label (integer), class names as a JSON list in the schema metadata classes",
    read_parquet,
)
