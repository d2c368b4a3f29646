"""A kind takes what it names and nothing else, and says so in one sentence."""

from __future__ import annotations

import math
from typing import Any

import pytest

from d4c.errors import ArtifactError
from d4c.reading.schema import (
    AnyText,
    Either,
    Flag,
    Kind,
    List,
    Maybe,
    Number,
    OneOf,
    Record,
    Table,
    Text,
    Whole,
    check,
    check_version,
)

WRONG: dict[str, tuple[Kind, Any, str]] = {
    "true for a number": (Whole(0, 1), True, "the content is true, expected a whole number from 0 to 1"),
    "a fraction": (Whole(0, 9), 3.0, "the content is 3.0, expected a whole number from 0 to 9"),
    "too large": (Whole(0, 9), 10**400, "the content is a number of 1329 bits, expected a whole number from 0 to 9"),
    "NaN": (Number(0, 1), math.nan, "the content is nan, expected a number from 0 to 1"),
    "infinite": (Number(0, 1), math.inf, "the content is inf, expected a number from 0 to 1"),
    "a huge integer": (Number(0, 1), 10**400, "the content is a number of 1329 bits, expected a number from 0 to 1"),
    "one for a flag": (Flag(), 1, "the content is 1, expected true or false"),
    "an escape": (Text(), "\x1b[2J", r"the content is '\x1b[2J', expected a printable string of at most 1000"),
    "half a pair": (AnyText(), "\ud800", r"the content is '\ud800', expected a string of at most 100000"),
    "another value": (OneOf(("a", 1)), True, "the content is true, expected 'a' or 1"),
    "no list": (List(Whole(0, 9)), "ab", "the content is 'ab', expected a list of 0 to 1000000 values"),
    "a short list": (List(Whole(0, 9), 3, 3), [1], "the content is a list of 1 values, expected a list of 3 values"),
    "in a list": (List(Whole(0, 9)), [1, None], "[1] is null, expected a whole number from 0 to 9"),
    "in a table": (Table(Flag()), {"a": 1}, "a is 1, expected true or false"),
    "a strange key": (Table(Flag()), {"\n": True}, r"a key is '\n', expected a printable string"),
    "missing": (Record({"a": Record({"b": Flag()})}), {"a": {}}, "a.b is missing"),
    "unknown": (Record(closed=True, optional={"a": Flag()}), {"b": 1}, "'b' is unknown, expected a"),
    "null or": (Maybe(Whole(0, 9)), "x", "the content is 'x', expected null or a whole number from 0 to 9"),
    "neither": (Either((Flag(), Text(3))), "long", "the content is 'long', expected true or false or a printable"),
}


@pytest.mark.parametrize(("kind", "value", "sentence"), WRONG.values(), ids=WRONG)
def test_a_value_of_another_kind_is_refused(kind: Kind, value: Any, sentence: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        check(value, kind, "a.json", ArtifactError, "write it again")
    message = str(caught.value)
    assert message.startswith(f"a.json: {sentence}")
    assert message.endswith("; write it again.")


@pytest.mark.parametrize("data", [[], {}, {"format_version": "1"}, {"format_version": 2}, {"format_version": -1}])
def test_other_versions_are_refused(data: Any) -> None:
    with pytest.raises(ArtifactError, match=r"format_version|format version 2|expected a table"):
        check_version(data, 1, "a.json", ArtifactError, "write it again")
