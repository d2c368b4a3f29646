"""Datasets, prompts, and the embeddings that search keeps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks.fuzz.mutators import bytes_anywhere, pickle_opcodes, zip_entries
from benchmarks.fuzz.targets.target import ROUGH, Target, file_of
from d4c.calibration.prompts import resolve_prompts
from d4c.evaluation.load_dataset import load_dataset
from d4c.evaluation.readers.cifar import read_inert
from d4c.runtime.embeddings import Entry, Stamp, read_entries, write_entries


def data(folder: Path) -> list[Target]:
    index, prompts, pickled = folder / "index.npz", folder / "prompts.json", folder / "pickle"
    row = np.array([1, 0, 0, 0], np.float32)
    write_entries(index, "model", {"a.png": Entry(Stamp(1, 2), row), "b.png": Entry(Stamp(3, 4), row)})
    names = json.dumps({"classnames": ["cat", "dog"], "templates": ["a photo of a {}."]}).encode()
    batch = b"\x80\x02}q\x00(X\x06\x00\x00\x00labelsq\x01]q\x02(K\x01K\x02eX\x04\x00\x00\x00dataq\x03)u."
    imagenet = folder / "imagenet"
    (imagenet / "val" / "n01440764").mkdir(parents=True)
    (imagenet / "val" / "n01440764" / "a.JPEG").write_bytes(b"")
    classes = json.dumps({"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}).encode()
    return [
        Target(
            "file of embeddings",
            (index.read_bytes(),),
            (zip_entries, bytes_anywhere),
            file_of(index, lambda: read_entries(index, "model", 4)),
        ),
        Target("prompts", (names,), ROUGH, file_of(prompts, lambda: resolve_prompts(prompts))),
        Target(
            "class index of ImageNet",
            (classes,),
            ROUGH,
            file_of(imagenet / "imagenet_class_index.json", lambda: load_dataset(f"imagenet1k:{imagenet}")),
        ),
        Target(
            "pickle of CIFAR",
            (batch,),
            (pickle_opcodes, bytes_anywhere),
            file_of(pickled, lambda: read_inert(pickled)),
            4.0,
        ),
    ]
