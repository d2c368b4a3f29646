"""Pickles read as data, by an interpreter that imports nothing and calls nothing but what its reader lists.

A pickle is a program for a stack machine that may import and call anything. The machine here knows only containers,
numbers and strings; its reader says in a table what a few named globals stand for. An instruction makes at most one
object and copies nothing that is already there, so the size of the program bounds the memory.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"}
_STRINGS = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"}
_LITERALS = _NUMBERS | _STRINGS | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_LONGEST_NAME = 1000


class Refused(Exception):
    """The pickle asks for more than data; the message is a noun phrase that names it."""


class Damaged(ValueError):
    """The pickle is cut, garbled or at odds with itself; the message is one line."""


@dataclass(frozen=True)
class Rebuild:
    """A global that may be called: `function` makes the stand-in for what the call would give.

    A program can pass one large argument many times, so a function may keep its arguments but not copy them.
    """

    function: Callable[..., Any]


class Stateful:
    """A stand-in that accepts the state which a pickle gives to an object after making it, and by default drops it."""

    def set_state(self, state: Any) -> None:
        """May keep parts of the state, but not copy them."""


def load(program: bytes, table: Mapping[str, Any], persistent: Callable[[Any], Any] | None = None) -> Any:
    """The one object that a pickle describes.

    `table` gives for the dotted name of a global what stands for it: a Rebuild where it may be called, any other value
    where it may only be mentioned. A name that ends in * covers all that begin so. `persistent` turns a persistent id
    into what it refers to. Raises Refused or Damaged, also from within these functions.
    """
    machine = Machine(table, persistent)
    try:
        for opcode, argument, _ in pickletools.genops(program):
            machine.step(opcode.name, argument)
        (result,) = machine.stack
    # An interpreter of a damaged program meets short stacks, wrong types and unreadable numbers.
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Damaged(" ".join(str(error).split())[:200] or type(error).__name__) from None
    refuse_loops(result)
    return result


class Machine:
    """The stack of one pickle and its memo."""

    def __init__(self, table: Mapping[str, Any], persistent: Callable[[Any], Any] | None) -> None:
        self.table = table
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
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
                stack.append(tuple(self.to_mark()))
            case "LIST":
                stack.append(self.to_mark())
            case "DICT":
                values = self.to_mark()
                stack.append({})
                self.set_items(values)
            case "APPEND":
                self.extend([stack.pop()])
            case "APPENDS":
                self.extend(self.to_mark())
            case "SETITEM":
                self.set_items([stack.pop(), stack.pop()][::-1])
            case "SETITEMS":
                self.set_items(self.to_mark())
            case "BINPUT" | "LONG_BINPUT" | "PUT" | "MEMOIZE":
                self.memo[len(self.memo) if argument is None else argument] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(self.known(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(self.known(*[stack.pop(), stack.pop()][::-1]))
            case "BINPERSID" if self.persistent:
                stack.append(self.persistent(stack.pop()))
            case "REDUCE" | "NEWOBJ":
                arguments, target = stack.pop(), stack.pop()
                if not isinstance(target, Rebuild):
                    raise Refused("a call of something that may not be called")
                stack.append(target.function(*arguments))
            case "BUILD":
                state = stack.pop()
                if not isinstance(stack[-1], Stateful):
                    raise Refused(f"a state for an object of type {type(stack[-1]).__name__!r}")
                stack[-1].set_state(state)
            case _:
                raise Refused(f"the pickle instruction {name}")

    def to_mark(self) -> list[Any]:
        """Take the items above the last mark, and the mark."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("items for something that is no list")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        # A tuple as a key would be hashed through all its levels: 2^n steps for n shared pairs, or no stack left.
        if not all(isinstance(key, str | bytes | int | float | None) for key in items[::2]):
            raise Refused("a key that is neither text nor a number")
        if not isinstance(self.stack[-1], dict):
            raise TypeError("pairs for something that is no dictionary")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def known(self, module: Any, attribute: Any) -> Any:
        """What the table has for a global; the name itself is not kept, as a program can join long ones at will."""
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise Refused("a global that is not named by strings")
        if len(module) + len(attribute) > _LONGEST_NAME:
            raise Refused(f"a global with a name of more than {_LONGEST_NAME} letters")
        name = f"{module}.{attribute}"
        for entry, value in self.table.items():
            if name == entry or (entry.endswith("*") and name.startswith(entry[:-1])):
                return value
        raise Refused(f"the global {name[:100]!r}")


def refuse_loops(root: Any) -> None:
    """Refuse a container that holds itself, so that whoever walks the result comes to an end."""
    above: set[int] = set()
    done: set[int] = set()
    todo = [(root, False)]
    while todo:
        value, left = todo.pop()
        if left:
            above.remove(id(value))
            done.add(id(value))
        elif id(value) in above:
            raise Refused("a container that holds itself")
        elif id(value) not in done and isinstance(value, list | tuple | dict | Stateful):
            above.add(id(value))
            todo.append((value, True))
            branch = vars(value) if isinstance(value, Stateful) and not isinstance(value, dict) else value
            todo.extend((item, False) for item in (branch.values() if isinstance(branch, dict) else branch))
