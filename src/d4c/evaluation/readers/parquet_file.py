"""Reads Parquet files with encoded images, labels and class names, those of Hugging Face's `datasets` among them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from d4c.errors import DataError
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.readers.reader import Reader
from d4c.reading.json_file import parse_json
from d4c.reading.schema import AnyText, Anything, Kind, List, OneOf, Record, Table, check

if TYPE_CHECKING:
    import pyarrow as pa


FEATURES = Record({"info": Record({"features": Table(Anything())})})
"""What `datasets` writes about columns into the metadata of a schema."""
IMAGE, CLASSES = (
    Record({"_type": OneOf(("Image",))}),
    Record({"_type": OneOf(("ClassLabel",)), "names": List(AnyText())}),
)
"""The columns of interest among them."""
SPLITS = ("test", "validation", "val", "valid", "train")
"""Beginnings of the names of files that divide a dataset; of several splits the first of these is read."""


ROWS = 256
"""Rows that are read at once."""
SMALL, INFLATED = 64 << 20, 20
"""Bytes in memory that any file may take, and how many times its size."""


@dataclass(frozen=True)
class Columns:
    """The columns that hold images and labels, and the names of the classes."""

    image: str
    label: str
    classes: tuple[str, ...]


def read_parquet(spec: str, path: Path) -> Dataset:
    """Read files as one table in memory; images stay encoded until they are used.

    Args:
        spec: Name of the dataset.
        path: File with the columns image (encoded bytes) and label (integers), and class names as a JSON list under
            "classes" in the metadata of its schema; or a file, or a folder of files, of a dataset of Hugging Face's
            `datasets`, whose metadata name the columns and the classes. In a folder with several splits that is the
            test split, or else the one for validation.

    Returns:
        The images in the order of the rows.

    Raises:
        DataError: A file is not Parquet, or a column or the class names are missing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = _files(path)
    try:
        schema = pq.read_schema(files[0])
        columns = _columns(schema, files[0])
        table = pa.concat_tables([_read(file, [columns.image, columns.label]) for file in files])
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last one for names of columns
        detail = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read as Parquet ({detail}); give a complete Parquet file.") from None
    for name in (columns.image, columns.label):
        if table[name].null_count:
            raise _wrong_columns(schema, files[0], name, "no missing value")
    images = table[columns.image]
    if pa.types.is_struct(images.type):
        kind = images.type.field("bytes").type
        images = pa.chunked_array([chunk.field("bytes") for chunk in images.chunks], kind)
    labels = table[columns.label].to_numpy().astype(np.int64)
    return Dataset(spec, columns.classes, labels, encoded_images(images), location=lambda i: f"row {i} of {path}")


def _read(file: Path, columns: list[str]) -> pa.Table:
    """Read columns, as far as they take memory that fits the file: a few bytes may stand for any number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    most = max(SMALL, INFLATED * file.stat().st_size)
    batches: list[pa.RecordBatch] = []
    with pq.ParquetFile(file) as parquet:
        schema = pa.schema([parquet.schema_arrow.field(name) for name in columns])
        for batch in parquet.iter_batches(ROWS, columns=columns):
            batches.append(batch)
            most -= batch.nbytes
            if most < 0:
                raise DataError(
                    f"{file} inflates to more than {INFLATED} times its size, expected encoded images, which hardly "
                    "do; write it again."
                )
    return pa.Table.from_batches([batch.select(columns) for batch in batches], schema)


def _files(path: Path) -> list[Path]:
    """The file, or the files of one split in a folder or in its sub-folder data."""
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.parquet")) or sorted((path / "data").glob("*.parquet"))
    if not files:
        raise DataError(f"{path} holds no .parquet files, expected some; give the folder that does.")
    for split in SPLITS:
        if chosen := [file for file in files if re.match(rf"{split}\b", file.name)]:
            return chosen
    return files


def _columns(schema: pa.Schema, file: Path) -> Columns:
    """Find images and labels by what `datasets` wrote about them, or by their usual names."""
    import pyarrow as pa

    metadata = schema.metadata or {}
    features = _features(metadata.get(b"huggingface"))
    image = next((name for name, feature in features.items() if _is(feature, IMAGE)), "image")
    named = [name for name, feature in features.items() if _is(feature, CLASSES)]
    label = next((name for name in ("label", "fine_label", *named) if name in named), "label")
    for name, fits, kind in ((image, _holds_images, "encoded image bytes"), (label, pa.types.is_integer, "integers")):
        if name not in schema.names or not fits(schema.field(name).type):
            raise _wrong_columns(schema, file, name, kind)
    if label in named:
        return Columns(image, label, tuple(name.replace("_", " ") for name in features[label]["names"]))
    classes = class_names(metadata.get(b"classes"))
    if classes is None:
        raise DataError(
            f"{file} has no class names, expected a JSON list of strings in the schema metadata under 'classes'; "
            "write it there."
        )
    return Columns(image, label, classes)


def _is(feature: Any, kind: Kind) -> bool:
    try:
        check(feature, kind, "a feature", DataError, "correct it")
    except DataError:
        return False
    return True


def _holds_images(kind: pa.DataType) -> bool:
    """Whether a column is of bytes, or of records of bytes as `datasets` writes images."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_images(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _wrong_columns(schema: pa.Schema, file: Path, name: str, kind: str) -> DataError:
    columns = ", ".join(f"{field.name}: {field.type}" for field in schema)
    return DataError(f"{file} has the columns ({columns}), expected '{name}' with {kind}; add it.")


def _features(text: bytes | None) -> dict[str, Any]:
    """What `datasets` wrote about each column; nothing where that is missing or of another form."""
    try:
        data = parse_json(text or b"null", "the features", DataError, "correct them")
        check(data, FEATURES, "the features", DataError, "correct them")
    except DataError:
        return {}
    return dict(data["info"]["features"])


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
    "columns image (encoded bytes) and label (integer), class names as a JSON list in the schema metadata classes; or "
    "files of Hugging Face datasets",
    read_parquet,
)
