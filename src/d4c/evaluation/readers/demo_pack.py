"""Reads the emoji that come with the package."""

from __future__ import annotations

from importlib.resources import as_file, files

import numpy as np

from d4c.evaluation.dataset import Dataset
from d4c.evaluation.readers.parquet_file import encoded_images
from d4c.evaluation.readers.reader import Reader
from d4c.templates import EMOJI_TEMPLATES


def demo_dataset() -> Dataset:
    """Read the embedded emoji pack (Microsoft Fluent 3D, MIT): one image per class, in the order of the rows."""
    import pyarrow.parquet as pq

    with as_file(files("d4c.models") / "demo" / "eval_fluent3d.parquet") as path:
        table = pq.read_table(path, columns=["image", "name"])
    names = tuple(table["name"].to_pylist())
    return Dataset("demo", names, np.arange(len(names)), encoded_images(table["image"]), EMOJI_TEMPLATES)


DEMO = Reader("demo", "496 emoji that come with d4c", lambda _spec, _path: demo_dataset())
