"""Pictures, and the files that hold or name many of them: Parquet, tar files, tables of captions."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, features

from benchmarks.fuzz.mutators import bytes_anywhere, tar_members
from benchmarks.fuzz.targets.target import ROUGH, Target, file_of
from d4c.evaluation.dataset import AnyDataset
from d4c.evaluation.load_dataset import load_pictures
from d4c.pictures import open_picture

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM", "WEBP", "JPEG2000", "AVIF")
OPTIONAL = {"WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif"}
"""Formats that a build of Pillow may lack."""


def encoded(kind: str, mode: str = "RGB") -> bytes:
    """A small picture in a format."""
    file = io.BytesIO()
    shape = (24, 20) if mode == "L" else (24, 20, len(mode))
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels, mode).save(file, kind)
    return file.getvalue()


def pictures() -> list[Target]:
    """Every format of pictures that is read."""
    seeds = [encoded(kind) for kind in FORMATS if kind not in OPTIONAL or features.check(OPTIONAL[kind])]
    seeds += [encoded("PNG", "RGBA"), encoded("TIFF", "L")]
    return [Target("pictures", tuple(seeds), (bytes_anywhere,), lambda data: open_picture(data, "a picture"), 2.0)]


def picture_files(folder: Path) -> list[Target]:
    """Files that hold pictures, and files that name them."""
    place = folder / "pictures"
    (place / "wds" / "test").mkdir(parents=True)
    (place / "a.png").write_bytes(encoded("PNG"))
    tables = {
        "captions as CSV": ("captions", "a.csv", b'filepath,title\na.png,a cat\na.png,"two, cats"\n'),
        "captions as JSON lines": ("captions", "a.jsonl", b'{"filepath": "a.png", "title": ["a cat"]}\n'),
        "captions of Flickr": ("flickr", "a.txt", b"a.png#0\ta cat\na.png#1\ttwo cats\n"),
    }
    karpathy = {"images": [{"filename": "a.png", "split": "test", "filepath": ".", "sentences": [{"raw": "a cat"}]}]}
    wds = place / "wds"
    (wds / "classnames.txt").write_text("cat\ndog\n")
    (wds / "test" / "nshards.txt").write_text("1")
    return [
        Target("Parquet", (parquet(),), (bytes_anywhere,), _dataset(place / "a.parquet", "parquet"), 2.0),
        Target(
            "tar files",
            (shard(),),
            (tar_members, tar_members, bytes_anywhere),
            file_of(wds / "test" / "0.tar", lambda: walk(load_pictures(f"wds:{wds}"))),
            2.0,
        ),
        *(
            Target(name, (sound,), (bytes_anywhere,), _dataset(place / file, kind))
            for name, (kind, file, sound) in tables.items()
        ),
        Target("Karpathy's JSON", (json.dumps(karpathy).encode(),), ROUGH, _dataset(place / "a.json", "karpathy")),
    ]


def _dataset(file: Path, kind: str) -> Callable[[bytes], object]:
    return file_of(file, lambda: walk(load_pictures(f"{kind}:{file}")))


def walk(data: AnyDataset) -> None:
    """Read the first few pictures of a dataset, whether they decode or not."""
    for i in range(min(3, len(data))):
        data.named(i)
        data.read(i)


def parquet() -> bytes:
    """Two pictures with labels and class names."""
    file = io.BytesIO()
    table = pa.table({"image": pa.array([encoded("PNG")] * 2, pa.binary()), "label": pa.array([0, 1], pa.int64())})
    pq.write_table(table.replace_schema_metadata({"classes": json.dumps(["cat", "dog"])}), file)
    return file.getvalue()


def shard() -> bytes:
    """Two pictures with labels, as a tar file."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in (("0.png", encoded("PNG")), ("0.cls", b"0"), ("1.png", encoded("PNG")), ("1.cls", b"1")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()
