"""Labeled images for zero-shot evaluation, decoded one batch at a time.

`load_dataset` reads the embedded emoji pack, Parquet files, folders and the layouts that torchvision's CIFAR and
ImageNet downloads have; it needs no torchvision and unpickles nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from d4c.errors import DataError, SettingError
from d4c.evaluation.cifar import read_cifar
from d4c.pictures import IMAGE_SUFFIXES, decoded, on_white
from d4c.templates import EMOJI_TEMPLATES, PHOTO_TEMPLATES

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

SPECS = "'demo', 'parquet:FILE', 'folder:DIR', 'cifar10:DIR', 'cifar100:DIR' or 'imagenet1k:DIR'"


@dataclass(frozen=True)
class Dataset:
    """Images with a class each, and how the classes are put into words.

    `labels` is int64 [N] with indices into `classes`; `templates` hold "{}" where the class name goes; `read` gives
    picture number i as it is stored and `place` says in words where that is. A `Dataset` of one's own needs no more
    than this. Raises DataError if there is no image, no class or no template, or a label out of range.
    """

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    read: Callable[[int], Image.Image]
    templates: tuple[str, ...] = PHOTO_TEMPLATES
    place: Callable[[int], str] = "row {}".format

    def __post_init__(self) -> None:
        for what, items in (("images", self.labels), ("classes", self.classes), ("templates", self.templates)):
            if not len(items):
                raise DataError(f"{self.name} has no {what}, expected at least one; check the files it was read from.")
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.classes)))
        if len(wrong):
            i = int(wrong[0])
            raise DataError(
                f"{self.name}: {self.place(i)} has label {self.labels[i]}, expected 0 to {len(self.classes) - 1}; "
                "correct the label or give all class names."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, i: int) -> Image.Image:
        """Picture i in the mode it is stored in. Raises DataError, saying which one, if it does not decode."""
        return decoded(lambda: self.read(i), f"{self.name}: {self.place(i)}")

    def image(self, i: int) -> Image.Image:
        """Picture i with its transparent parts white; raises as `picture` does."""
        return on_white(self.picture(i))

    def subset(self, limit: int) -> Dataset:
        """At most `limit` images at even distances over the whole set, in its order.

        Sets are often sorted by class, so that the first rows would be one class only. Deterministic: image k of the
        subset is image floor(k N / limit). Raises SettingError for a limit below 1.
        """
        if limit < 1:
            raise SettingError(f"the limit is {limit} images, expected at least 1; leave it out to use all.")
        if limit >= len(self):
            return self
        chosen = [k * len(self) // limit for k in range(limit)]
        read, place = self.read, self.place
        return replace(
            self, labels=self.labels[chosen], read=lambda i: read(chosen[i]), place=lambda i: place(chosen[i])
        )


def pixel_batches(
    dataset: Dataset, preprocess: Callable[[Image.Image], Tensor | NDArray[np.float32]], batch_size: int
) -> Iterator[Tensor]:
    """Preprocessed images [<= batch_size, 3, S, S] in order; the next batch is decoded while one is used.

    Raises SettingError for a batch size below 1 and DataError for an image that does not decode.
    """
    if batch_size < 1:
        raise SettingError(f"the batch size is {batch_size}, expected at least 1; 64 suits most machines.")

    def one(i: int) -> Tensor:
        return torch.as_tensor(preprocess(dataset.image(i)))

    starts = range(0, len(dataset), batch_size)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:

        def begin(start: int) -> list[Future[Tensor]]:
            return [pool.submit(one, i) for i in range(start, min(start + batch_size, len(dataset)))]

        waiting = begin(0)
        try:
            for start in starts:
                current, waiting = waiting, begin(start + batch_size)
                yield torch.stack([future.result() for future in current])
        finally:
            for future in waiting:
                future.cancel()


def load_dataset(spec: str | Dataset) -> Dataset:
    """The dataset that a spec names; a `Dataset` is given back as it is.

    "demo": 496 emoji that come with the package. "parquet:FILE": columns `image` (encoded bytes) and `label` (int),
    class names as a JSON list in the schema metadata `classes`. "folder:DIR": one sub-folder a class, named by the
    sub-folders or, in their sorted order, by the lines of DIR/classes.txt. "cifar10:DIR", "cifar100:DIR": the binary
    or the Python download of the test set. "imagenet1k:DIR": DIR/val/<wnid>/*.JPEG with a file of class names.
    Raises DataError if the data cannot be used, SettingError for any other spec.
    """
    if isinstance(spec, Dataset):
        return spec
    kind, _, where = spec.partition(":")
    if spec == "demo":
        return demo_dataset()
    if not where or kind not in READERS:
        raise SettingError(f"the dataset is {spec!r}, expected {SPECS}; give one of these.")
    path = Path(where).expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist, expected the data of {spec!r}; correct the path.")
    return READERS[kind](spec, path)


def demo_dataset() -> Dataset:
    """The embedded emoji pack (Microsoft Fluent 3D, MIT): one image a class, in the order of the rows."""
    with as_file(files("d4c.models") / "demo" / "eval_fluent3d.parquet") as path:
        table = pq.read_table(path, columns=["image", "name"])
    names = tuple(table["name"].to_pylist())
    return Dataset("demo", names, np.arange(len(names)), blob_reader(table["image"]), EMOJI_TEMPLATES)


def blob_reader(column: pa.ChunkedArray) -> Callable[[int], Image.Image]:
    """Open the encoded image in row i of a column of bytes."""
    return lambda i: Image.open(BytesIO(column[i].as_py()))


def parquet_dataset(spec: str, path: Path) -> Dataset:
    """The file as one table in memory; encoded images stay encoded until they are used."""
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
            found = ", ".join(f"{field.name}: {field.type}" for field in table.schema)
            raise DataError(
                f"{path} has the columns ({found}), expected '{name}' with {kind} and no missing value; add it."
            )
    classes = json_names((table.schema.metadata or {}).get(b"classes"))
    if classes is None:
        raise DataError(
            f"{path} has no class names, expected a JSON list of strings in the schema metadata under 'classes'; "
            "write it there."
        )
    labels = table["label"].to_numpy().astype(np.int64)
    return Dataset(spec, classes, labels, blob_reader(table["image"]), place=lambda i: f"row {i} of {path}")


def json_names(text: bytes | None) -> tuple[str, ...] | None:
    """A JSON list of strings, or None for anything else."""
    try:
        names = json.loads(text or b"null")
    except ValueError:
        return None
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def class_folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def tree_dataset(spec: str, folders: Sequence[Path], indices: Sequence[int], classes: Sequence[str]) -> Dataset:
    """The images below class folders, in sorted order; `indices` gives each folder's class."""
    found = [
        (file, index)
        for folder, index in zip(folders, indices, strict=True)
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in IMAGE_SUFFIXES
    ]
    paths = [file for file, _ in found]
    labels = np.array([index for _, index in found], np.int64)
    return Dataset(spec, tuple(classes), labels, lambda i: Image.open(paths[i]), place=lambda i: str(paths[i]))


def folder_dataset(spec: str, path: Path) -> Dataset:
    """One sub-folder a class; "_" in a folder's name is a space in the class name."""
    folders = class_folders(path) if path.is_dir() else []
    if not folders:
        raise DataError(f"{path} holds no folders, expected one folder of images for each class; give their parent.")
    classes = [folder.name.replace("_", " ") for folder in folders]
    if (path / "classes.txt").exists():
        classes = lines_of(path / "classes.txt")
        if len(classes) != len(folders):
            raise DataError(
                f"{path / 'classes.txt'} names {len(classes)} classes, expected {len(folders)}, one for each folder; "
                "write one name a line in the sorted order of the folders."
            )
    return tree_dataset(spec, folders, range(len(folders)), classes)


def lines_of(path: Path) -> list[str]:
    """The lines of a UTF-8 text file that are not blank."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise DataError(f"{path} is no UTF-8 text, expected class names; save it as UTF-8.") from None


def cifar_dataset(spec: str, path: Path) -> Dataset:
    """The test set of CIFAR-10 or CIFAR-100, whichever the spec names."""
    pixels, labels, classes = read_cifar(path, 100 if spec.startswith("cifar100:") else 10)
    return Dataset(spec, classes, labels, lambda i: Image.fromarray(pixels[i]))


def imagenet_dataset(spec: str, path: Path) -> Dataset:
    """The validation images of ImageNet-1k in one folder a WordNet id, as torchvision lays them out."""
    folders = class_folders(path / "val") if (path / "val").is_dir() else []
    if not folders:
        raise DataError(f"{path} has no folders val/<wnid>, expected 1000 with the validation images; move them there.")
    names = imagenet_names(path, [folder.name for folder in folders])
    order = {wnid: index for index, wnid in enumerate(sorted(names))}
    unknown = [folder.name for folder in folders if folder.name not in order]
    if len(order) != 1000 or unknown:
        odd = f", and {unknown[0]} has no name" if unknown else ""
        raise DataError(f"{path} names {len(order)} classes{odd}, expected 1000 with all of val/<wnid>; complete it.")
    indices = [order[folder.name] for folder in folders]
    return tree_dataset(spec, folders, indices, [names[wnid] for wnid in order])


def imagenet_names(path: Path, wnids: Sequence[str]) -> dict[str, str]:
    """Class name of each WordNet id, from whichever of the three usual text files is there."""
    if (path / "classes.txt").exists():
        return dict(zip(wnids, lines_of(path / "classes.txt"), strict=False))
    if (path / "LOC_synset_mapping.txt").exists():
        rows = [line.partition(" ") for line in lines_of(path / "LOC_synset_mapping.txt")]
        return {wnid: names.split(",")[0].strip() for wnid, _, names in rows}
    index = path / "imagenet_class_index.json"
    if not index.exists():
        raise DataError(
            f"{path} has no class names, expected classes.txt (1000 lines in the order of the sorted wnids), "
            "LOC_synset_mapping.txt or imagenet_class_index.json; put one of them there."
        )
    try:
        rows_by_index: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
        return {str(wnid): str(name).replace("_", " ") for wnid, name in rows_by_index.values()}
    except (ValueError, AttributeError, TypeError):
        raise DataError(f'{index} does not read as {{"0": ["n01440764", "tench"], ...}}; download it again.') from None


READERS: dict[str, Callable[[str, Path], Dataset]] = {
    "parquet": parquet_dataset,
    "folder": folder_dataset,
    "cifar10": cifar_dataset,
    "cifar100": cifar_dataset,
    "imagenet1k": imagenet_dataset,
}
