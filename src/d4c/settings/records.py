"""Checks and changes frozen records of settings by the types that their fields declare."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from d4c.errors import SettingError
from d4c.reading.schema import shown

Record = TypeVar("Record")

_KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    int: ((int,), "an integer"),
    float: ((int, float), "a finite number"),
    str: ((str,), "a string"),
    bool: ((bool,), "True or False"),
    NoneType: ((NoneType,), "None"),
}


def check_types(record: Any, what: str) -> None:
    """Check that every field of a record has its declared type and that numbers are finite.

    Args:
        record: A dataclass whose fields are numbers, strings, Literals, tuples and mappings of these, or unions.
        what: What the settings are of, for the message: "synthesis".

    Raises:
        SettingError: A field does not.
    """
    hints = get_type_hints(type(record))
    for field in fields(record):
        value, hint = getattr(record, field.name), hints[field.name]
        if not _fits(value, hint):
            raise SettingError(f"The {what} setting {field.name} is {_quoted(value)}, expected {_expected(hint)}.")


def with_settings(record: Record, settings: Mapping[str, Any], what: str) -> Record:
    """Copy a record with some fields replaced; a field whose new value is None stays as it is.

    Args:
        record: The record.
        settings: New values by name of the field.
        what: What the settings are of, for the message: "synthesis".

    Returns:
        The copy.

    Raises:
        SettingError: A name is not a field.
    """
    names = [field.name for field in fields(record)]  # type: ignore[arg-type]
    for name in settings:
        if name not in names:
            raise SettingError(f"There is no {what} setting {name!r}; use one of {', '.join(names)}.")
    return replace(record, **{name: value for name, value in settings.items() if value is not None})  # type: ignore[type-var]


def _quoted(value: Any) -> str:
    """A value as it is written in Python; a number too long for that by its size."""
    return shown(value) if isinstance(value, int) and value.bit_length() > 200 else repr(value)


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if hint in _KINDS:
        if isinstance(value, bool) and hint is not bool:
            return False
        return isinstance(value, _KINDS[hint][0]) and not (isinstance(value, float) and not math.isfinite(value))
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is tuple:
        fits_length = inner[-1] is Ellipsis or (isinstance(value, tuple) and len(value) == len(inner))
        return isinstance(value, tuple) and fits_length and all(_fits(item, inner[0]) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            _fits(key, inner[0]) and _fits(v, inner[1]) for key, v in value.items()
        )
    return any(_fits(value, choice) for choice in inner) if inner else isinstance(value, hint)


def _expected(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if hint in _KINDS:
        return _KINDS[hint][1]
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin is tuple:
        kind = _expected(inner[0])
        return f"a list of {kind}" if inner[-1] is Ellipsis else f"a list of {len(inner)} values, each {kind},"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a table of strings"
    return " or ".join(map(_expected, inner)) if inner else f"a {hint.__name__}"
