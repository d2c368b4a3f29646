"""What a record in a file may hold: kinds of values with their ranges, checked before anything is built.

A kind is a small frozen record. `check` walks over a value once and raises an error of the caller's class that names
the field, its value and what is expected. What has passed needs no further checks of types, and no number in it is NaN,
infinite or beyond its range.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from d4c.errors import D4CError


class Mismatch(Exception):
    """A value is not of its kind; the message is a clause without a period."""


class Kind(Protocol):
    """What values of a field may be."""

    @property
    def expected(self) -> str:
        """What they are called in an error message."""
        ...

    def verify(self, value: Any, name: str) -> None:
        """Raise Mismatch unless `value`, whose path in the file is `name`, is of this kind."""
        ...


@dataclass(frozen=True)
class Whole:
    """A whole number within a range."""

    low: int
    high: int

    @property
    def expected(self) -> str:
        return f"a whole number from {self.low} to {self.high}"

    def verify(self, value: Any, name: str) -> None:
        if type(value) is not int or not self.low <= value <= self.high:
            raise _mismatch(value, name, self)


@dataclass(frozen=True)
class Number:
    """A finite number within a range."""

    low: float
    high: float

    @property
    def expected(self) -> str:
        return f"a number from {self.low:g} to {self.high:g}"

    def verify(self, value: Any, name: str) -> None:
        if type(value) not in (int, float) or not self.low <= value <= self.high:
            raise _mismatch(value, name, self)


@dataclass(frozen=True)
class Flag:
    """True or false."""

    expected: str = "true or false"

    def verify(self, value: Any, name: str) -> None:
        if type(value) is not bool:
            raise _mismatch(value, name, self)


@dataclass(frozen=True)
class Text:
    """A string of printable characters, so that it may be shown on a terminal and written to any file."""

    longest: int = 1000

    @property
    def expected(self) -> str:
        return f"a printable string of at most {self.longest} characters"

    def verify(self, value: Any, name: str) -> None:
        if not isinstance(value, str) or len(value) > self.longest or not value.isprintable():
            raise _mismatch(value, name, self)


@dataclass(frozen=True)
class AnyText:
    """A string of any characters but halves of surrogate pairs, which no file can hold."""

    longest: int = 100_000

    @property
    def expected(self) -> str:
        return f"a string of at most {self.longest} characters that UTF-8 can hold"

    def verify(self, value: Any, name: str) -> None:
        if not isinstance(value, str) or len(value) > self.longest or any("\ud800" <= c <= "\udfff" for c in value):
            raise _mismatch(value, name, self)


@dataclass(frozen=True)
class OneOf:
    """One of several values; null is one of them where they hold None."""

    values: tuple[Any, ...]

    @property
    def expected(self) -> str:
        return " or ".join("null" if value is None else repr(value) for value in self.values)

    def verify(self, value: Any, name: str) -> None:
        if not any(type(value) is type(item) and value == item for item in self.values):
            raise _mismatch(value, name, self)


@dataclass(frozen=True)
class Maybe:
    """Null, or a value of some kind."""

    kind: Kind

    @property
    def expected(self) -> str:
        return f"null or {self.kind.expected}"

    def verify(self, value: Any, name: str) -> None:
        if isinstance(value, dict | list):
            self.kind.verify(value, name)
        elif value is not None:
            try:
                self.kind.verify(value, name)
            except Mismatch:
                raise _mismatch(value, name, self) from None


@dataclass(frozen=True)
class Either:
    """A value of one of several kinds."""

    kinds: tuple[Kind, ...]

    @property
    def expected(self) -> str:
        return " or ".join(kind.expected for kind in self.kinds)

    def verify(self, value: Any, name: str) -> None:
        for kind in self.kinds:
            try:
                return kind.verify(value, name)
            except Mismatch:
                continue
        raise _mismatch(value, name, self)


@dataclass(frozen=True)
class List:
    """A list of values of one kind."""

    kind: Kind
    shortest: int = 0
    longest: int = 1_000_000

    @property
    def expected(self) -> str:
        length = f"{self.shortest}" if self.shortest == self.longest else f"{self.shortest} to {self.longest}"
        return f"a list of {length} values, each {self.kind.expected}"

    def verify(self, value: Any, name: str) -> None:
        if not isinstance(value, list | tuple) or not self.shortest <= len(value) <= self.longest:
            raise _mismatch(value, name, self)
        for i, item in enumerate(value):
            self.kind.verify(item, f"{name}[{i}]")


@dataclass(frozen=True)
class Table:
    """A table whose keys are printable strings and whose values are of one kind."""

    kind: Kind
    longest: int = 100_000

    @property
    def expected(self) -> str:
        return f"a table of at most {self.longest} entries"

    def verify(self, value: Any, name: str) -> None:
        if not isinstance(value, dict) or len(value) > self.longest:
            raise _mismatch(value, name, self)
        for key, item in value.items():
            Text().verify(key, f"a key of {name}" if name else "a key")
            self.kind.verify(item, _join(name, key))


@dataclass(frozen=True)
class Record:
    """A table with named fields.

    Args:
        required: Kinds by name of the fields that must be there.
        optional: Kinds of those that may be.
        closed: Whether further fields are refused.
    """

    required: Mapping[str, Kind] = field(default_factory=dict)
    optional: Mapping[str, Kind] = field(default_factory=dict)
    closed: bool = False
    expected: str = "a table"

    def verify(self, value: Any, name: str) -> None:
        if not isinstance(value, Mapping):
            raise _mismatch(value, name, self)
        for key in self.required:
            if key not in value:
                raise Mismatch(f"{_join(name, key)} is missing")
        known = {**self.required, **self.optional}
        if self.closed and (others := [key for key in value if key not in known]):
            raise Mismatch(f"{_join(name, shown(others[0]))} is unknown, expected {', '.join(known)}")
        for key, kind in known.items():
            if key in value:
                kind.verify(value[key], _join(name, key))


@dataclass(frozen=True)
class Anything:
    """Any value, of which nothing is computed."""

    expected: str = "anything"

    def verify(self, value: Any, name: str) -> None:
        pass


def check(value: Any, kind: Kind, source: str, error: type[D4CError], advice: str) -> None:
    """Check a value that was read from a file.

    Args:
        value: The value.
        kind: What it is expected to be.
        source: Names the file in the message.
        error: Class of the exception to raise.
        advice: What to do about it, as the end of the sentence.

    Raises:
        D4CError: Of class `error`, if the value is something else.
    """
    try:
        kind.verify(value, "")
    except Mismatch as mismatch:
        raise error(f"{source}: {mismatch}; {advice}.") from None


def check_version(data: Any, supported: int, source: str, error: type[D4CError], advice: str) -> None:
    """Raise an error of class `error` unless a table has a `format_version` from 1 to the one that is supported."""
    check(data, Record({"format_version": Whole(0, 1 << 30)}), source, error, advice)
    version = data["format_version"]
    if version > supported:
        raise error(
            f"{source} has format version {version}, but this d4c reads up to {supported}; install a newer d4c."
        )


def shown(value: Any) -> str:
    """A value as it is quoted in an error message: short, printable, and without walking into containers."""
    if isinstance(value, Mapping):
        return f"a table of {len(value)} entries"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)} values"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return f"a number of {value.bit_length()} bits"
    text = ascii(value[:60] + "..." if isinstance(value, str) and len(value) > 60 else value)
    return {"None": "null", "True": "true", "False": "false"}.get(text, text)


def _mismatch(value: Any, name: str, kind: Kind) -> Mismatch:
    return Mismatch(f"{name or 'the content'} is {shown(value)}, expected {kind.expected}")


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key
