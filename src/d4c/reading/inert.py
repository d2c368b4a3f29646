"""Reads pickles as data: nothing is imported, and nothing is called but what the caller lists.

A pickle is a program for a stack machine that may import and call anything. The machine here knows only containers,
numbers and strings; a table from the caller says what a few named globals stand for. Each instruction makes at most one
object and copies nothing that exists already, so the size of the program bounds the memory.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from d4c.errors import reason_of

_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"}
_STRINGS = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"}
_LITERALS = _NUMBERS | _STRINGS | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MAX_NAME_LENGTH = 1000


class Refused(Exception):
    """The pickle asks for more than data; the message is a noun phrase that names it."""


class Damaged(ValueError):
    """The pickle is truncated, garbled or inconsistent; the message is one line."""


@dataclass(frozen=True)
class Rebuild:
    """A global that may be called: `function` makes the stand-in for what the call would return.

    A program can pass one large argument many times, so `function` may keep its arguments but must not copy them.
    """

    function: Callable[..., Any]


class Stateful:
    """A stand-in that accepts the state of the pickled object; by default it drops the state."""

    def set_state(self, state: Any) -> None:
        """Take the state; parts of it may be kept but must not be copied."""


def load(program: bytes, table: Mapping[str, Any], persistent: Callable[[Any], Any] | None = None) -> Any:
    """Return the one object that a pickle describes.

    Args:
        program: The bytes of the pickle.
        table: Maps the dotted name of a global to what stands for it: a `Rebuild` where it may be called, any other
            value where it may only be mentioned. A name that ends in `*` covers every name that begins with the rest.
        persistent: Turns a persistent id into what it refers to; without it, persistent ids are refused.

    Returns:
        Containers, numbers and strings, with the stand-ins from `table` and `persistent` among them.

    Raises:
        Refused: The pickle asks for more than data. Functions in `table` and `persistent` may raise it, too.
        Damaged: The pickle cannot be read.
    """
    machine = Machine(table, persistent)
    try:
        for opcode, argument, _ in pickletools.genops(program):
            machine.step(opcode.name, argument)
        (result,) = machine.stack
    # A damaged program leads to short stacks, wrong types and unreadable numbers.
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Damaged(reason_of(error)) from None
    refuse_loops(result)
    return result


class Machine:
    """The stack machine that runs one pickle: its stack, its marks and its memo."""

    def __init__(self, table: Mapping[str, Any], persistent: Callable[[Any], Any] | None) -> None:
        self.table = table
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Run one instruction, by its name in `pickletools`."""
        stack = self.stack
        match name:
            case _ if name in _LITERALS:
                stack.append(argument)
            case _ if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case _ if name in _EMPTY:
                stack.append(_EMPTY[name]())
            case _ if name in _TUPLES:
                stack.append(tuple([stack.pop() for _ in range(_TUPLES[name])][::-1]))
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                self.marks.append(len(stack))
            case "POP":
                stack.pop()
            case "TUPLE":
                stack.append(tuple(self.pop_to_mark()))
            case "LIST":
                stack.append(self.pop_to_mark())
            case "DICT":
                values = self.pop_to_mark()
                stack.append({})
                self.set_items(values)
            case "APPEND":
                self.extend([stack.pop()])
            case "APPENDS":
                self.extend(self.pop_to_mark())
            case "SETITEM":
                self.set_items([stack.pop(), stack.pop()][::-1])
            case "SETITEMS":
                self.set_items(self.pop_to_mark())
            case "BINPUT" | "LONG_BINPUT" | "PUT" | "MEMOIZE":
                self.memo[len(self.memo) if argument is None else argument] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(self.resolve(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(self.resolve(*[stack.pop(), stack.pop()][::-1]))
            case "BINPERSID" if self.persistent:
                stack.append(self.persistent(stack.pop()))
            case "REDUCE" | "NEWOBJ":
                self.call()
            case "BUILD":
                self.set_state()
            case _:
                raise Refused(f"the pickle instruction {name}")

    def pop_to_mark(self) -> list[Any]:
        """Remove the last mark and the items above it; return the items."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def call(self) -> None:
        """Replace a callable and its arguments with the stand-in for the result."""
        arguments, target = self.stack.pop(), self.stack.pop()
        if not isinstance(target, Rebuild):
            raise Refused("a call of something that may not be called")
        self.stack.append(target.function(*arguments))

    def set_state(self) -> None:
        """Take a state from the stack and give it to the object below."""
        state = self.stack.pop()
        if not isinstance(self.stack[-1], Stateful):
            raise Refused(f"a state for an object of type {type(self.stack[-1]).__name__!r}")
        self.stack[-1].set_state(state)

    def extend(self, items: list[Any]) -> None:
        """Append items to the list on top of the stack."""
        if not isinstance(self.stack[-1], list):
            raise TypeError("items for something that is not a list")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        """Put alternating keys and values into the dictionary on top of the stack."""
        # Hashing a tuple visits all its levels: 2^n steps for n shared pairs, or a stack overflow.
        if not all(isinstance(key, str | bytes | int | float | None) for key in items[::2]):
            raise Refused("a key that is neither text nor a number")
        if not isinstance(self.stack[-1], dict):
            raise TypeError("pairs for something that is not a dictionary")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def resolve(self, module: Any, attribute: Any) -> Any:
        """Look up a global in the table; its name is not kept, since a program can build many long ones."""
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise Refused("a global that is not named by strings")
        if len(module) + len(attribute) > _MAX_NAME_LENGTH:
            raise Refused(f"a global with a name of more than {_MAX_NAME_LENGTH} characters")
        name = f"{module}.{attribute}"
        for entry, value in self.table.items():
            if name == entry or (entry.endswith("*") and name.startswith(entry[:-1])):
                return value
        raise Refused(f"the global {name[:100]!r}")


def refuse_loops(root: Any) -> None:
    """Raise Refused for a container that holds itself, so that a walk over the result ends."""
    ancestors: set[int] = set()
    visited: set[int] = set()
    todo = [(root, False)]
    while todo:
        value, leaving = todo.pop()
        if leaving:
            ancestors.remove(id(value))
            visited.add(id(value))
        elif id(value) in ancestors:
            raise Refused("a container that holds itself")
        elif id(value) not in visited and isinstance(value, list | tuple | dict | Stateful):
            ancestors.add(id(value))
            todo.append((value, True))
            children = vars(value) if isinstance(value, Stateful) and not isinstance(value, dict) else value
            todo.extend((child, False) for child in (children.values() if isinstance(children, dict) else children))
