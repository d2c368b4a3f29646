"""CIFAR-10 and CIFAR-100 test sets as their authors distribute them, without torchvision and without unpickling.

The binary version is plain bytes. The Python version is a pickle; it is read by an interpreter that knows dictionaries,
lists, numbers, strings and numpy's byte arrays and calls nothing: any other content is refused.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from d4c.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIXELS = 3 * 32 * 32  # red plane, green plane, blue plane


@dataclass(frozen=True)
class Layout:
    """Names within one distribution; `header` is the number of label bytes before each image, the last one counts."""

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


def read_cifar(path: Path, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]:
    """Images [N, 32, 32, 3], labels [N] and class names of the test set in `path` or in its usual sub-folder.

    Raises DataError if neither version is there, or if one is damaged.
    """
    layout = LAYOUTS[classes]
    for folder in (path / layout.binary, path):
        if (folder / layout.binary_test).exists():
            flat, labels = read_binary(folder / layout.binary_test, layout.header)
            names = present(folder / layout.binary_names).read_text(encoding="utf-8", errors="replace").split()
            break
    else:
        for folder in (path / layout.python, path):
            if (folder / layout.python_test).exists():
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


def present(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"{path} does not exist, expected the class names there; unpack the whole archive.")
    return path


def read_binary(path: Path, header: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    raw = np.fromfile(path, np.uint8)
    if len(raw) % (header + PIXELS):
        raise DataError(
            f"{path} has {len(raw)} bytes, expected a multiple of {header + PIXELS}; unpack the archive again."
        )
    rows = raw.reshape(-1, header + PIXELS)
    return rows[:, header:], rows[:, header - 1].astype(np.int64)


def read_python(path: Path, label_key: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    batch = read_inert(path)
    data, labels = batch.get("data"), batch.get(label_key)
    if not isinstance(data, ByteArray) or not isinstance(labels, list) or not all(type(n) is int for n in labels):
        raise DataError(f"{path} has no array 'data' or no list '{label_key}' of integers; unpack the archive again.")
    if data.shape != (len(labels), PIXELS) or len(data.raw) != len(labels) * PIXELS:
        raise DataError(
            f"{path}: 'data' has shape {data.shape} in {len(data.raw)} bytes, expected ({len(labels)}, {PIXELS}); "
            "unpack the archive again."
        )
    return np.frombuffer(data.raw, np.uint8).reshape(data.shape), np.array(labels, np.int64)


def string_list(path: Path, key: str) -> list[str]:
    names = read_inert(present(path)).get(key)
    if not isinstance(names, list) or not all(isinstance(name, (str, bytes)) for name in names):
        raise DataError(f"{path} has no list '{key}' of class names; unpack the archive again.")
    return [name.decode("latin-1") if isinstance(name, bytes) else name for name in names]


class ByteArray:
    """What a pickle says about a numpy array of uint8, filled in when its state arrives."""

    shape: tuple[Any, ...] = ()
    raw: bytes = b""


@dataclass(frozen=True)
class Global:
    """The name of something a pickle would import; here it is never looked up."""

    name: str


class Mark:
    """Where a group of stack items begins."""


ARRAYS = {f"{package}.multiarray _reconstruct" for package in ("numpy.core", "numpy._core")}
KNOWN = ARRAYS | {"numpy ndarray", "numpy dtype", "_codecs encode"}
PUSH = {
    *("BININT", "BININT1", "BININT2", "LONG1", "INT"),
    *("SHORT_BINSTRING", "BINSTRING", "SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
CONSTANT = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_inert(path: Path) -> dict[str, Any]:
    """The dictionary that a pickle of plain data holds, with text keys; Python 2's strings become latin-1 text.

    Raises DataError for a damaged pickle and for one that asks for anything but numpy's byte arrays.
    """
    try:
        found = Machine().run(path.read_bytes())
    except Refused as error:
        raise DataError(
            f"{path} is a pickle that contains {error}, expected only CIFAR's dictionaries, lists and byte arrays; "
            "nothing was run, get the binary version of the dataset instead."
        ) from None
    # An interpreter of a damaged program meets short stacks, wrong types and unreadable numbers.
    except (ValueError, LookupError, TypeError, AttributeError, UnicodeError) as error:
        raise DataError(f"{path} is a damaged pickle ({error}); unpack the archive again.") from None
    if not isinstance(found, dict):
        raise DataError(f"{path} holds {type(found).__name__}, expected a dictionary; unpack the archive again.")
    return {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in found.items()}


class Refused(Exception):
    """A pickle wants more than data."""


class Machine:
    """A stack machine for the opcodes that plain data is written with, in pickle protocols 2 to 4."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, program: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(program):
            self.step(opcode.name, argument)
        (result,) = self.stack
        return result

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in PUSH:
            stack.append(argument)
        elif name in CONSTANT:
            stack.append(CONSTANT[name])
        elif name == "MARK":
            stack.append(Mark())
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_TUPLE":
            stack.append(())
        elif name in TUPLES:
            stack.append(tuple([stack.pop() for _ in range(TUPLES[name])][::-1]))
        elif name == "TUPLE":
            stack.append(tuple(self.group()))
        elif name == "APPEND":
            self.extend([stack.pop()])
        elif name == "APPENDS":
            self.extend(self.group())
        elif name in ("SETITEM", "SETITEMS"):
            self.set_items([stack.pop(), stack.pop()][::-1] if name == "SETITEM" else self.group())
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "GLOBAL":
            stack.append(known(argument))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(known(f"{module} {attribute}"))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(inert_call(function, arguments))
        elif name == "BUILD":
            self.build(stack.pop())
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise Refused(f"the instruction {name}")

    def group(self) -> list[Any]:
        """Take the items above the last mark, and the mark."""
        items = []
        while not isinstance(item := self.stack.pop(), Mark):
            items.append(item)
        return items[::-1]

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("items for something that is no list")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict) or not all(isinstance(key, (str, bytes)) for key in items[::2]):
            raise TypeError("keys that are no text, or no dictionary for them")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def build(self, state: Any) -> None:
        """The state of an array: (version, shape, dtype, Fortran order, bytes); that of a dtype says nothing new."""
        target = self.stack[-1]
        if isinstance(target, ByteArray):
            _, target.shape, kind, fortran, raw = state
            if kind != "u1" or fortran or not isinstance(raw, (str, bytes)):
                raise ValueError("an array that is not of bytes in C order")
            target.raw = raw.encode("latin-1") if isinstance(raw, str) else raw
        elif target != "u1":
            raise Refused("an object that sets its own state")


def known(name: str) -> Global:
    if name not in KNOWN:
        raise Refused(f"a reference to {name.replace(' ', '.')}")
    return Global(name)


def inert_call(function: Any, arguments: Any) -> Any:
    """What the four known functions would return, as plain data: an empty array, "u1", or the encoded bytes."""
    name = function.name if isinstance(function, Global) else None
    if name in ARRAYS:
        return ByteArray()
    if name == "numpy dtype" and arguments[0] == "u1":
        return "u1"
    if name == "_codecs encode" and arguments[1:] == ("latin1",):
        return arguments[0].encode("latin-1")
    raise Refused("a call that no array of bytes needs")
