"""PyTorch's zip archives (`torch.save`, TorchScript), read without running what is pickled in them.

A pickle is a program for a stack machine that may import and call anything. The interpreter here walks its opcodes
and knows only containers, numbers, strings and the few names that stand for tensors; nothing is imported and nothing
is called. Tensors stay references until `read` is asked for them, and no tensor may be larger than its storage, so
the size of the file bounds the memory.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d4c.errors import CheckpointError

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
# What reading a cut, garbled or encrypted archive may raise.
_DAMAGE = (zipfile.BadZipFile, LookupError, ValueError, TypeError, AttributeError, EOFError, OSError, RuntimeError)


@dataclass(frozen=True)
class Name:
    """A global named in the pickle: only a name, never looked up."""

    text: str


@dataclass(frozen=True)
class StorageRef:
    """Bytes elsewhere in the archive, as `numel` numbers of `dtype`."""

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True)
class TensorRef:
    """A strided window on a storage."""

    storage: StorageRef
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(eq=False)
class Record:
    """A TorchScript object as the attributes it was saved with."""

    attributes: dict[Any, Any] = field(default_factory=dict)


class Refused(Exception):
    """The pickle asks for something that a checkpoint does not need."""


def shown(value: Any) -> str:
    """A global's name, cut to what a message can hold, or the type of something else."""
    return repr(value.text[:100]) if isinstance(value, Name) else f"of type {type(value).__name__!r}"


def whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise Refused("a tensor with an odd shape")
    return value


def storage_ref(identity: Any) -> StorageRef:
    """A persistent id ("storage", type, key, device, numel)."""
    kind, name, key, _, numel = identity
    dtype = _STORAGES.get(name.text.removeprefix("torch.")) if isinstance(name, Name) else None
    if kind != "storage" or dtype is None or not isinstance(key, str):
        raise Refused(f"the storage type {shown(name)}")
    return StorageRef(key, dtype, whole(numel))


def tensor_ref(arguments: tuple[Any, ...]) -> TensorRef:
    """The arguments of `_rebuild_tensor_v2`, checked against their storage."""
    storage, offset, size, stride = arguments[:4]
    sizes, strides = tuple(map(whole, size)), tuple(map(whole, stride))
    last = whole(offset) + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    numel = prod(list(sizes), start=1)
    if not isinstance(storage, StorageRef) or numel > storage.numel or (numel and last >= storage.numel):
        raise Refused("a tensor that reaches beyond its storage")
    return TensorRef(storage, offset, sizes, strides)


def call(name: Any, arguments: Any) -> Any:
    """What the few known callables would give; all others are refused by name."""
    text = name.text if isinstance(name, Name) else ""
    match text:
        case "collections.OrderedDict":
            return dict(*arguments)
        case "torch._utils._rebuild_tensor_v2":
            return tensor_ref(arguments)
        case "torch._utils._rebuild_parameter" | "torch.jit._pickle.restore_type_tag" | "torch.Size":
            return arguments[0]
    if text.startswith("torch.jit._pickle.build_"):
        return arguments[0]
    raise Refused(f"the global {shown(name)}")


class Machine:
    """The stack of one pickle and its memo."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def to_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def run(self, program: bytes) -> Any:
        """The one object that a pickle describes; raises Refused, or what damaged data raises."""
        for opcode, argument, _ in pickletools.genops(program):
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, argument)
        raise Refused("no end")

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self.marks.append(len(stack))
            case "POP":
                stack.pop()
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "FLOAT" | "BINFLOAT":
                stack.append(argument)
            case "UNICODE" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8" | "BINSTRING" | "SHORT_BINSTRING":
                stack.append(argument)
            case "BINBYTES" | "SHORT_BINBYTES":
                stack.append(argument)
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append({"EMPTY_TUPLE": (), "EMPTY_LIST": [], "EMPTY_DICT": {}}[name])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack[-int(name[-1]) :] = [tuple(stack[-int(name[-1]) :])]
            case "TUPLE":
                stack.append(tuple(self.to_mark()))
            case "LIST":
                stack.append(self.to_mark())
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items = self.to_mark()
                stack[-1].extend(items)
            case "DICT" | "SETITEM" | "SETITEMS":
                self.items(name)
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(Name(argument.replace(" ", ".")))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                if not isinstance(module, str) or not isinstance(attribute, str):
                    raise Refused("a global that is not named by strings")
                stack.append(Name(f"{module}.{attribute}"))
            case "BINPERSID":
                stack.append(storage_ref(stack.pop()))
            case "REDUCE" | "NEWOBJ" | "BUILD":
                self.make(name)
            case _:
                raise Refused(f"the pickle instruction {name}")

    def items(self, name: str) -> None:
        """Pairs from the stack into a dict."""
        values = [self.stack.pop(-2), self.stack.pop()] if name == "SETITEM" else self.to_mark()
        if name == "DICT":
            self.stack.append({})
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise Refused("items of something that is no dict")
        target.update(zip(values[::2], values[1::2], strict=True))

    def make(self, name: str) -> None:
        """The three instructions that run code in a real pickle."""
        argument, target = self.stack.pop(), self.stack.pop()
        if name == "REDUCE":
            self.stack.append(call(target, argument))
        elif name == "NEWOBJ":
            if not isinstance(target, Name) or not target.text.startswith("__torch__."):
                raise Refused(f"the global {shown(target)}")
            self.stack.append(Record())
        else:
            # The state of a plain dict is the `_metadata` that PyTorch hangs on its state dicts.
            if isinstance(target, Record) and isinstance(argument, dict):
                target.attributes.update(argument)
            elif not isinstance(target, dict):
                raise Refused(f"a state for {shown(target)}")
            self.stack.append(target)


def tensors_of(tree: dict[Any, Any] | Record) -> Iterator[tuple[str, TensorRef]]:
    """Dotted names and tensors of a dict or of nested objects; an object met twice counts once."""
    todo: list[tuple[str, dict[Any, Any]]] = [("", tree.attributes if isinstance(tree, Record) else tree)]
    seen = set()
    while todo:
        prefix, branch = todo.pop()
        for key, value in branch.items():
            if isinstance(value, TensorRef):
                yield f"{prefix}{key}", value
            elif isinstance(value, Record) and id(value) not in seen:
                seen.add(id(value))
                todo.append((f"{prefix}{key}.", value.attributes))


def read_storage(archive: zipfile.ZipFile, entry: str, ref: StorageRef, swap: bool) -> Tensor:
    """One storage as a flat tensor."""
    if archive.getinfo(entry).file_size < ref.numel * ref.dtype.itemsize:
        raise Refused("a storage that is shorter than its tensors")
    data = np.frombuffer(archive.read(entry), np.uint8, ref.numel * ref.dtype.itemsize).copy()
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
            f"{path} is a damaged PyTorch archive ({' '.join(str(error).split()) or type(error).__name__}); "
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
    tree = Machine().run(archive.read(names[0]))
    if not isinstance(tree, dict | Record):
        raise Refused(f"a {type(tree).__name__} instead of a state dict")
    if isinstance(tree, dict):
        tree = next((tree[key] for key in ("state_dict", "model") if isinstance(tree.get(key), dict)), tree)
    order = f"{root}byteorder"
    swap = order in archive.namelist() and archive.read(order) == b"big"
    storages: dict[StorageRef, Tensor] = {}
    out = {}
    for name, ref in tensors_of(tree):
        if ref.storage not in storages:
            storages[ref.storage] = read_storage(archive, f"{root}data/{ref.storage.key}", ref.storage, swap)
        out[name] = storages[ref.storage].as_strided(ref.size, ref.stride, ref.offset)
    return out
