"""PyTorch's zip archives (`torch.save`, TorchScript), read without running what is pickled in them.

The pickle goes through `d4c.inert` with the few names that stand for tensors. Tensors stay references until the whole
pickle is read; none may be larger than its storage, nor all storages than the file, so its size bounds the memory.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d4c.errors import CheckpointError
from d4c.inert import Rebuild, Refused, Stateful, load

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
_LARGEST_PICKLE = 16 << 20
_LONGEST_NAME = 1000
_MOST_AXES = 64
# What reading a cut, garbled or encrypted archive may raise.
_DAMAGE = (zipfile.BadZipFile, LookupError, ValueError, TypeError, AttributeError, EOFError, OSError, RuntimeError)


@dataclass(frozen=True)
class StorageRef:
    """Bytes elsewhere in the archive, as `numel` numbers of `dtype`."""

    key: str
    dtype: torch.dtype
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class TensorRef:
    """A strided window on a storage."""

    storage: StorageRef
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Record(Stateful):
    """A TorchScript object as the attributes it was saved with."""

    def __init__(self) -> None:
        self.attributes: dict[Any, Any] = {}

    def set_state(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise Refused(f"a state of type {type(state).__name__!r}")
        self.attributes = state


class StateDict(dict[Any, Any], Stateful):
    """An OrderedDict; its state is the `_metadata` that PyTorch hangs on state dicts, which is not needed."""


def whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise Refused("a tensor with an odd shape")
    return value


def storage_ref(identity: Any) -> StorageRef:
    """A persistent id ("storage", type, key, device, numel)."""
    kind, dtype, key, _, numel = identity
    if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
        raise Refused("a reference to something that is no storage")
    return StorageRef(key, dtype, whole(numel))


def tensor_ref(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> TensorRef:
    """The arguments of `_rebuild_tensor_v2`, checked against their storage."""
    if len(size) > _MOST_AXES:
        raise Refused("a tensor with an odd shape")
    sizes, strides = tuple(map(whole, size)), tuple(map(whole, stride))
    last = whole(offset) + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    numel = prod(list(sizes), start=1)
    if not isinstance(storage, StorageRef) or numel > storage.numel or (numel and last >= storage.numel):
        raise Refused("a tensor that reaches beyond its storage")
    return TensorRef(storage, offset, sizes, strides)


def first(value: Any, *_: Any) -> Any:
    return value


_GLOBALS = {
    **{f"torch.{name}": dtype for name, dtype in _STORAGES.items()},
    **{str(dtype): dtype for dtype in _STORAGES.values()},
    "collections.OrderedDict": Rebuild(lambda: StateDict()),
    "torch._utils._rebuild_tensor_v2": Rebuild(tensor_ref),
    "torch._utils._rebuild_parameter": Rebuild(first),
    "torch.Size": Rebuild(first),
    "torch.jit._pickle.restore_type_tag": Rebuild(first),
    "torch.jit._pickle.build_*": Rebuild(first),
    "__torch__.*": Rebuild(lambda: Record()),
}


def tensors_of(tree: dict[Any, Any] | Record) -> Iterator[tuple[str, TensorRef]]:
    """Dotted names and tensors of a dict or of nested objects; attributes met twice count once."""
    todo: list[tuple[str, dict[Any, Any]]] = [("", tree.attributes if isinstance(tree, Record) else tree)]
    seen = set()
    while todo:
        prefix, branch = todo.pop()
        for key, value in branch.items():
            name = f"{prefix}{key}"
            # A pickle can use one long key everywhere; every name would be a copy of it.
            if len(name) > _LONGEST_NAME:
                raise Refused(f"a name of more than {_LONGEST_NAME} letters")
            if isinstance(value, TensorRef):
                yield name, value
            elif isinstance(value, Record) and id(value.attributes) not in seen:
                seen.add(id(value.attributes))
                todo.append((f"{name}.", value.attributes))


def read_storage(archive: zipfile.ZipFile, entry: str, ref: StorageRef, swap: bool) -> Tensor:
    """One storage as a flat tensor."""
    if archive.getinfo(entry).file_size < ref.nbytes:
        raise Refused("a storage that is shorter than its tensors")
    data = np.frombuffer(archive.read(entry), np.uint8, ref.nbytes).copy()
    if swap:
        data = data.reshape(-1, ref.dtype.itemsize)[:, ::-1].copy().reshape(-1)
    return torch.from_numpy(data).view(ref.dtype)


def read_archive(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of `torch.save` or TorchScript; a dict under "state_dict" or "model" is found.

    Raises CheckpointError, naming the cause, for a damaged archive and for pickles that ask for anything but
    tensors, containers and numbers; nothing in the file is executed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return read_members(archive)
    except Refused as error:
        raise CheckpointError(
            f"{path} holds {error} in its pickle, which is not needed for a state dict and was not executed; "
            "save the state dict alone, best as safetensors."
        ) from None
    except _DAMAGE as error:
        raise CheckpointError(
            f"{path} is a damaged PyTorch archive ({' '.join(str(error).split())[:200] or type(error).__name__}); "
            "download or save it again."
        ) from None


def read_members(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    """`read_archive` on an open zip file."""
    names = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(names) != 1:
        raise ValueError("no single data.pkl in it")
    root = names[0].removesuffix("data.pkl")
    used = [info for info in archive.infolist() if info.filename.startswith((names[0], f"{root}data/"))]
    if any(info.compress_type != zipfile.ZIP_STORED for info in used):
        raise ValueError("compressed entries")
    if archive.getinfo(names[0]).file_size > _LARGEST_PICKLE:
        raise ValueError(f"a pickle of more than {_LARGEST_PICKLE >> 20} MiB")
    tree = load(archive.read(names[0]), _GLOBALS, storage_ref)
    if not isinstance(tree, dict | Record):
        raise Refused(f"a {type(tree).__name__} instead of a state dict")
    if isinstance(tree, dict):
        tree = next((tree[key] for key in ("state_dict", "model") if isinstance(tree.get(key), dict)), tree)
    order = f"{root}byteorder"
    swap = order in archive.namelist() and archive.read(order) == b"big"
    refs = dict(tensors_of(tree))
    needed = dict.fromkeys(ref.storage for ref in refs.values())
    # One entry could be asked for under many lengths, and many entries can lie on the same bytes.
    if sum(storage.nbytes for storage in needed) > archive.start_dir:
        raise Refused("a storage that is larger than the file")
    storages = {storage: read_storage(archive, f"{root}data/{storage.key}", storage, swap) for storage in needed}
    return {n: storages[ref.storage].as_strided(ref.size, ref.stride, ref.offset) for n, ref in refs.items()}
