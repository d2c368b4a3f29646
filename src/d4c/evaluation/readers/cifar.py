"""Reads the CIFAR-10 and CIFAR-100 test sets as their authors distribute them, without torchvision or unpickling.

The binary version is plain bytes. The Python version is a pickle. `d4c.reading.inert` reads it without running
anything and refuses every name beyond the few that NumPy's byte arrays need.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from d4c.errors import DataError
from d4c.evaluation.dataset import Dataset
from d4c.evaluation.readers.reader import Reader
from d4c.evaluation.readers.words.openai_prompts import CIFAR_TEMPLATES
from d4c.reading.inert import Damaged, Rebuild, Refused, Stateful, load

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIXELS = 3 * 32 * 32
"""Bytes of an image: its red, its green and its blue plane."""


@dataclass(frozen=True)
class Layout:
    """Names of files and keys in one distribution.

    `header` is the number of label bytes before each image of the binary version; the last one is the class.
    """

    binary: str
    binary_test: str
    binary_names: str
    header: int
    python: str
    python_test: str
    python_meta: str
    label_key: str
    names_key: str


LAYOUTS = {
    10: Layout(
        binary="cifar-10-batches-bin",
        binary_test="test_batch.bin",
        binary_names="batches.meta.txt",
        header=1,
        python="cifar-10-batches-py",
        python_test="test_batch",
        python_meta="batches.meta",
        label_key="labels",
        names_key="label_names",
    ),
    100: Layout(
        binary="cifar-100-binary",
        binary_test="test.bin",
        binary_names="fine_label_names.txt",
        header=2,
        python="cifar-100-python",
        python_test="test",
        python_meta="meta",
        label_key="fine_labels",
        names_key="fine_label_names",
    ),
}


def read_dataset(spec: str, path: Path, classes: int) -> Dataset:
    """Read the test set of CIFAR-10 or CIFAR-100 as a dataset with OpenAI's prompts."""
    pixels, labels, names = read_cifar(path, classes)
    return Dataset(spec, names, labels, lambda i: pixels[i], CIFAR_TEMPLATES, verbatim=True)


def read_cifar(path: Path, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """Read the test set in a folder or in its usual sub-folder, the binary version first.

    Args:
        path: The folder.
        classes: 10 or 100, the distribution to look for.

    Returns:
        Images [N, 32, 32, 3], labels [N] and class names.

    Raises:
        DataError: The folder holds neither version, or the version is damaged.
    """
    layout = LAYOUTS[classes]
    for folder in (path / layout.binary, path):
        if (folder / layout.binary_test).is_file():
            flat, labels = read_binary(folder / layout.binary_test, layout.header)
            names = existing(folder / layout.binary_names).read_text(encoding="utf-8", errors="replace").split()
            break
    else:
        for folder in (path / layout.python, path):
            if (folder / layout.python_test).is_file():
                flat, labels = read_python(folder / layout.python_test, layout.label_key)
                names = string_list(folder / layout.python_meta, layout.names_key)
                break
        else:
            raise DataError(
                f"{path} holds neither {layout.binary}/{layout.binary_test} nor {layout.python}/{layout.python_test}; "
                f"unpack the binary version of CIFAR-{classes} there."
            )
    pixels = np.ascontiguousarray(flat.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return pixels, labels, tuple(name.replace("_", " ") for name in names)


def existing(path: Path) -> Path:
    """Return the path of a file of class names; raise DataError if it does not exist."""
    if not path.is_file():
        raise DataError(f"{path} does not exist, expected the class names there; unpack the whole archive.")
    return path


def read_binary(path: Path, header: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read planes [N, 3072] and labels [N] from rows of `header` label bytes and an image."""
    raw = np.fromfile(path, np.uint8)
    if len(raw) % (header + PIXELS):
        raise DataError(
            f"{path} has {len(raw)} bytes, expected a multiple of {header + PIXELS}; unpack the archive again."
        )
    rows = raw.reshape(-1, header + PIXELS)
    return rows[:, header:], rows[:, header - 1].astype(np.int64)


def read_python(path: Path, label_key: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read planes [N, 3072] and labels [N] from a pickled dictionary."""
    batch = read_inert(path)
    data, labels = batch.get("data"), batch.get(label_key)
    if not isinstance(data, ByteArray) or not isinstance(labels, list) or not all(map(is_label, labels)):
        raise DataError(f"{path} has no array 'data' or no list '{label_key}' of integers; unpack the archive again.")
    # Characters that are not bytes are left out, which the number of bytes tells.
    raw = data.raw.encode("latin-1", "ignore") if isinstance(data.raw, str) else data.raw
    if data.shape != (len(labels), PIXELS) or len(raw) != len(labels) * PIXELS:
        raise DataError(
            f"{path}: 'data' has shape {data.shape} in {len(raw)} bytes, expected ({len(labels)}, {PIXELS}); "
            "unpack the archive again."
        )
    return np.frombuffer(raw, np.uint8).reshape(data.shape), np.array(labels, np.int64)


def is_label(value: Any) -> bool:
    """Whether a value is a label that one byte of the binary version could hold."""
    return type(value) is int and 0 <= value < 256


def string_list(path: Path, key: str) -> list[str]:
    """Read a list of at most 100 class names from a pickled dictionary."""
    names = read_inert(existing(path)).get(key)
    if not isinstance(names, list) or len(names) > 100 or not all(isinstance(name, (str, bytes)) for name in names):
        raise DataError(f"{path} has no list '{key}' of class names; unpack the archive again.")
    return [name.decode("latin-1") if isinstance(name, bytes) else name for name in names]


class ByteArray(Stateful):
    """What a pickle says about a NumPy array of uint8, filled in when its state arrives."""

    shape: tuple[Any, ...] = ()
    raw: str | bytes = b""

    def set_state(self, state: Any) -> None:
        """Keep shape and bytes of (version, shape, dtype, Fortran order, bytes)."""
        _, shape, kind, fortran, raw = state
        if not isinstance(kind, Uint8) or fortran or not isinstance(raw, str | bytes):
            raise ValueError("an array that is not of bytes in C order")
        if not isinstance(shape, tuple) or len(shape) > 64 or not all(type(n) is int for n in shape):
            raise ValueError("an array with an invalid shape")
        self.shape, self.raw = shape, raw


class Uint8(Stateful):
    """NumPy's dtype of bytes; its state says nothing new."""


def dtype(code: Any, *_: Any) -> Uint8:
    """Stand in for `numpy.dtype`, which CIFAR only calls for bytes."""
    if code != "u1":
        raise Refused("numbers other than bytes")
    return Uint8()


def latin1(text: Any, codec: Any) -> str:
    """Stand in for `_codecs.encode`, with which Python 3 writes bytes in protocol 2; they stay text until needed."""
    if codec != "latin1" or not isinstance(text, str):
        raise Refused("a codec other than latin1")
    return text


GLOBALS = {
    "numpy.core.multiarray._reconstruct": Rebuild(lambda *_: ByteArray()),
    "numpy._core.multiarray._reconstruct": Rebuild(lambda *_: ByteArray()),
    "numpy.ndarray": ByteArray,  # an argument of _reconstruct, never called
    "numpy.dtype": Rebuild(dtype),
    "_codecs.encode": Rebuild(latin1),
}


def read_inert(path: Path) -> dict[Any, Any]:
    """Read the dictionary in a pickle of plain data; keys that are bytes become latin-1 text.

    Raises:
        DataError: The pickle is damaged or asks for anything but NumPy's byte arrays.
    """
    try:
        content = load(path.read_bytes(), GLOBALS)
    except Refused as error:
        raise DataError(
            f"{path} is a pickle that contains {error}, expected only CIFAR's dictionaries, lists and byte arrays; "
            "nothing was run, get the binary version of the dataset instead."
        ) from None
    except Damaged as error:
        raise DataError(f"{path} is a damaged pickle ({error}); unpack the archive again.") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} holds {type(content).__name__}, expected a dictionary; unpack the archive again.")
    return {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in content.items()}


CIFAR10 = Reader("cifar10:DIR", "its test set as downloaded, OpenAI's 18 prompts", partial(read_dataset, classes=10))
CIFAR100 = Reader("cifar100:DIR", "its test set as downloaded, OpenAI's 18 prompts", partial(read_dataset, classes=100))
