"""A Parquet file takes as much memory as its size allows."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from d4c.errors import DataError
from d4c.evaluation.load_dataset import load_dataset


def written(folder: Path, rows: int, picture: bytes) -> Path:
    """A file in which one picture of many bytes stands in each row, once in the dictionary."""
    table = pa.table({"image": pa.array([picture] * rows, pa.binary()), "label": pa.array([0] * rows, pa.int64())})
    file = folder / "a.parquet"
    pq.write_table(table.replace_schema_metadata({"classes": json.dumps(["cat"])}), file, compression="zstd")
    return file


def test_a_file_that_inflates_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, 512, bytes(1 << 18))
    assert file.stat().st_size < 10_000
    with pytest.raises(DataError, match="inflates to more than 20 times"):
        load_dataset(f"parquet:{file}")


def test_a_small_file_may_repeat_its_pictures(tmp_path: Path) -> None:
    data = load_dataset(f"parquet:{written(tmp_path, 700, bytes(100))}")
    assert (len(data), data.read(699)) == (700, bytes(100))


def test_names_of_columns_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path, 2, bytes(100))
    file.write_bytes(file.read_bytes().replace(b"label", b"\xfeabel"))
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        load_dataset(f"parquet:{file}")
