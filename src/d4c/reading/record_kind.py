"""`record_kind`: what a table in a file may hold that becomes a dataclass, from the types of its fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from d4c.reading.schema import Flag, Kind, List, Maybe, OneOf, Record, Text


def record_kind(record: type, ranges: Mapping[str, Kind]) -> Record:
    """The kind of a table that holds the fields of a dataclass, from their types.

    Args:
        record: The dataclass; its fields are numbers, flags, strings, Literals, None, tuples, or unions of these.
        ranges: Kinds by name of the field, or by "int" and "float" for all others of that type.

    Returns:
        A closed kind; fields with defaults may be missing.
    """
    hints = get_type_hints(record)
    kinds = {item.name: ranges.get(item.name) or _kind(hints[item.name], ranges) for item in fields(record)}
    needed = {item.name for item in fields(record) if item.default is MISSING and item.default_factory is MISSING}
    return Record(
        {name: kind for name, kind in kinds.items() if name in needed},
        {name: kind for name, kind in kinds.items() if name not in needed},
        closed=True,
    )


def _kind(hint: Any, ranges: Mapping[str, Kind]) -> Kind:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is bool:
        return Flag()
    if hint in (int, float):
        return ranges[hint.__name__]
    if hint is str:
        return Text()
    if origin is Literal:
        return OneOf(inner)
    if origin is tuple:
        return List(_kind(inner[0], ranges), *(() if inner[-1] is ... else (len(inner), len(inner))))
    if origin in (Union, UnionType) and NoneType in inner:
        (plain,) = (item for item in inner if item is not NoneType)
        return Maybe(_kind(plain, ranges))
    raise TypeError(f"There is no kind for fields of type {hint}; write one.")
