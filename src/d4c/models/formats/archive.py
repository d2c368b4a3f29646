"""Reads PyTorch's zip archives (`torch.save`, TorchScript) without running the code in their pickles.

`d4c.reading.inert` reads the pickle with a table of the few globals that stand for tensors. Tensors stay references
until the whole pickle is read. No tensor may be larger than its storage, and the storages together may not be larger
than the file, so the size of the file bounds the memory.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from d4c.errors import CheckpointError, reason_of
from d4c.models.formats.wrapped.unwrap import Choice, select
from d4c.reading.inert import Rebuild, Refused, Stateful, load


@dataclass(frozen=True)
class Weights:
    """The content of a weights file.

    Attributes:
        tensors: The weights by name.
        notes: What else the file says, as dictionaries of any content that may describe the model.
    """

    tensors: dict[str, Tensor]
    notes: tuple[Mapping[Any, Any], ...] = ()


_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
LEAF = TypeVar("LEAF")
_MAX_PICKLE_BYTES = 16 << 20
_MAX_NAME_LENGTH = 1000
_MAX_DIMENSIONS = 64
# What reading a truncated, garbled or encrypted archive may raise.
_DAMAGE = (zipfile.BadZipFile, LookupError, ValueError, TypeError, AttributeError, EOFError, OSError, RuntimeError)


@dataclass(frozen=True)
class StorageRef:
    """A reference to the entry `key` of the archive, which holds `numel` numbers of type `dtype`."""

    key: str
    dtype: torch.dtype
    numel: int

    @property
    def nbytes(self) -> int:
        """Size of the numbers in bytes."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class TensorRef:
    """A strided view of a storage; `offset` and `stride` count numbers."""

    storage: StorageRef
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Record(Stateful):
    """An object of TorchScript, or a namespace of settings, as the attributes it was saved with."""

    def __init__(self, *_: Any) -> None:
        self.attributes: dict[Any, Any] = {}

    def set_state(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise Refused(f"a state of type {type(state).__name__!r}")
        self.attributes = state


class StateDict(dict[Any, Any], Stateful):
    """An OrderedDict, without its state: the `_metadata` that PyTorch attaches to state dicts is not needed."""


def checked_size(value: Any) -> int:
    """Return a value that must be a whole number from 0 to 2^63 - 1."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise Refused("a tensor with an invalid shape")
    return value


def storage_ref(identity: Any) -> StorageRef:
    """Turn a persistent id ("storage", type, key, device, numel) into a reference."""
    kind, dtype, key, _, numel = identity
    if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
        raise Refused("a reference to something that is not a storage")
    return StorageRef(key, dtype, checked_size(numel))


def tensor_ref(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> TensorRef:
    """Turn the arguments of `_rebuild_tensor_v2` into a reference that stays within its storage."""
    if len(size) > _MAX_DIMENSIONS:
        raise Refused("a tensor with an invalid shape")
    sizes, strides = tuple(map(checked_size, size)), tuple(map(checked_size, stride))
    last = checked_size(offset) + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    numel = prod(list(sizes), start=1)
    if not isinstance(storage, StorageRef) or numel > storage.numel or (numel and last >= storage.numel):
        raise Refused("a tensor that reaches beyond its storage")
    return TensorRef(storage, offset, sizes, strides)


class Ignored(Stateful):
    """An object beside weights that nothing asks for: a NumPy scalar, a path, the state of a training loop."""

    def __init__(self, *_: Any) -> None:
        pass


def first_argument(value: Any, *_: Any) -> Any:
    """Stand in for a function that wraps its first argument."""
    return value


_CODECS = ("multiarray.scalar", "multiarray._reconstruct", "numeric._frombuffer")
_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
_BESIDE = (
    "_codecs.encode",
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.dtypes.*",
    "torch.device",
    "omegaconf.*",
    *(f"numpy.{core}.{name}" for core in ("core", "_core") for name in _CODECS),
    *(f"pathlib.{local}{name}" for local in ("", "_local.") for name in _PATHS),
)
"""Globals of what training loops save beside weights; the stand-in for each holds nothing."""
_DICTIONARIES = (
    "collections.OrderedDict",
    "collections.defaultdict",
    "easydict.EasyDict",
    "yacs.config.CfgNode",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
)
_MENTIONED = [f"{builtins}.{kind}" for builtins in ("builtins", "__builtin__") for kind in ("list", "dict", "int")]

_GLOBALS = {
    **{f"torch.{name}": dtype for name, dtype in _STORAGES.items()},
    **{str(dtype): dtype for dtype in _STORAGES.values()},
    **dict.fromkeys(_MENTIONED, "a type"),
    **dict.fromkeys(_DICTIONARIES, Rebuild(lambda *_: StateDict())),
    "torch._utils._rebuild_tensor_v2": Rebuild(tensor_ref),
    "torch._utils._rebuild_parameter": Rebuild(first_argument),
    "torch.Size": Rebuild(first_argument),
    "torch.jit._pickle.restore_type_tag": Rebuild(first_argument),
    "torch.jit._pickle.build_*": Rebuild(first_argument),
    "__torch__.*": Rebuild(Record),
    **{name: Rebuild(Record) for name in ("argparse.Namespace", "types.SimpleNamespace")},
    **dict.fromkeys(_BESIDE, Rebuild(Ignored)),
}


def groups_of(tree: Mapping[Any, Any] | Record, leaf: type[LEAF]) -> dict[str, dict[str, LEAF]]:
    """Return the tensors in nested dictionaries, each with those of the objects that it holds.

    Args:
        tree: The outermost dictionary or object; what is met twice counts once.
        leaf: The class of a tensor.

    Returns:
        The tensors by name, in groups by the path of their dictionary, which ends in a dot unless it is empty.
    """
    groups: dict[str, dict[str, LEAF]] = {}
    seen: set[int] = set()
    todo: list[tuple[str, str, Mapping[Any, Any]]] = [("", "", tree.attributes if isinstance(tree, Record) else tree)]
    while todo:
        path, prefix, branch = todo.pop()
        if id(branch) in seen:
            continue
        seen.add(id(branch))
        for key, value in branch.items():
            if not isinstance(value, leaf | Record | Mapping):
                continue
            name = f"{prefix}{key}"
            # A pickle can use one long key many times, and every name would hold a copy of it.
            if len(path) + len(name) > _MAX_NAME_LENGTH:
                raise Refused(f"a name of more than {_MAX_NAME_LENGTH} characters")
            if isinstance(value, leaf):
                groups.setdefault(path, {})[name] = value
            elif isinstance(value, Record):
                todo.append((path, f"{name}.", value.attributes))
            elif isinstance(value, Mapping):
                todo.append((f"{path}{name}.", "", value))
    return groups


def read_storage(archive: zipfile.ZipFile, entry: str, ref: StorageRef, swap: bool) -> Tensor:
    """Read an entry of the archive as a flat tensor; `swap` reverses the bytes of each number."""
    if archive.getinfo(entry).file_size < ref.nbytes:
        raise Refused("a storage that is shorter than its tensors")
    data = np.frombuffer(archive.read(entry), np.uint8, ref.nbytes).copy()
    if swap:
        data = data.reshape(-1, ref.dtype.itemsize)[:, ::-1].copy().reshape(-1)
    return torch.from_numpy(data).view(ref.dtype)


def read_archive(path: Path, choose: Choice = select) -> Weights:
    """Read the CLIP, or else the largest state dict, in a file of `torch.save` or TorchScript; no code in it is run.

    Args:
        path: The file; dictionaries in it may hold a state dict under any name, beside whatever training needs.
        choose: Takes the weights by their names, so that others are not read.

    Returns:
        The tensors by name, where those that share a storage in the file share memory, and the settings beside them.

    Raises:
        CheckpointError: The archive is damaged, its pickle holds more than tensors, containers, numbers and the
            settings of common training loops, or there are several CLIPs.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return read_members(archive, str(path), choose)
    except Refused as error:
        raise CheckpointError(
            f"{path} holds {error} in its pickle, which a state dict does not need and which was not executed; "
            "save the state dict alone, preferably as safetensors."
        ) from None
    except _DAMAGE as error:
        raise CheckpointError(
            f"{path} is a damaged PyTorch archive ({reason_of(error)}); download or save it again."
        ) from None


def read_members(archive: zipfile.ZipFile, source: str, choose: Choice) -> Weights:
    """Read the state dict in an open archive."""
    root, tree = read_tree(archive)
    order = f"{root}byteorder"
    swap = order in archive.namelist() and archive.getinfo(order).file_size == 3 and archive.read(order) == b"big"
    refs = choose(groups_of(tree, TensorRef), source)
    needed = dict.fromkeys(ref.storage for ref in refs.values())
    # A pickle can ask for one entry under many lengths, and many entries can share the same bytes.
    if sum(storage.nbytes for storage in needed) > archive.start_dir:
        raise Refused("a storage that is larger than the file")
    storages = {storage: read_storage(archive, f"{root}data/{storage.key}", storage, swap) for storage in needed}
    tensors = {name: storages[ref.storage].as_strided(ref.size, ref.stride, ref.offset) for name, ref in refs.items()}
    return Weights(tensors, notes_of(tree))


def notes_of(tree: dict[Any, Any] | Record) -> tuple[dict[Any, Any], ...]:
    """Return the dictionaries at the top that may say what the weights are: the first and those that it holds."""
    top = tree.attributes if isinstance(tree, Record) else tree
    inner = (value.attributes if isinstance(value, Record) else value for value in top.values())
    return (top, *(value for value in inner if isinstance(value, dict)))


def read_tree(archive: zipfile.ZipFile) -> tuple[str, dict[Any, Any] | Record]:
    """Return the root folder of an open archive and the dict or object that its pickle describes."""
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise ValueError(f"{len(pickles)} pickles, expected one")
    root = pickles[0].removesuffix("data.pkl")
    read = (pickles[0], f"{root}byteorder", f"{root}data/")
    entries = [info for info in archive.infolist() if info.filename.startswith(read)]
    if any(info.compress_type != zipfile.ZIP_STORED for info in entries):
        raise ValueError("compressed entries")
    if any(max(info.file_size, info.compress_size) > archive.start_dir for info in entries):
        raise ValueError("entries larger than the file")
    if archive.getinfo(pickles[0]).file_size > _MAX_PICKLE_BYTES:
        raise ValueError(f"a pickle of more than {_MAX_PICKLE_BYTES >> 20} MiB")
    tree = load(archive.read(pickles[0]), _GLOBALS, storage_ref)
    if not isinstance(tree, dict | Record):
        raise Refused(f"a {type(tree).__name__} instead of a state dict")
    return root, tree
