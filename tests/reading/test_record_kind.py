"""The kind of a dataclass takes its fields and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from d4c.errors import ArtifactError
from d4c.reading.record_kind import record_kind
from d4c.reading.schema import Number, Whole, check


@dataclass(frozen=True)
class Example:
    size: int
    share: float
    kind: Literal["a", "b"]
    sides: tuple[int, int] = (1, 1)
    end: int | None = None


EXAMPLE = record_kind(Example, {"int": Whole(1, 9), "float": Number(0, 1)})


def test_the_kind_of_a_record_takes_its_fields() -> None:
    for data in ({"size": 1, "share": 0, "kind": "a"}, {"size": 1, "share": 1.0, "kind": "b", "sides": [1, 2]}):
        check(data, EXAMPLE, "a.json", ArtifactError, "")


@pytest.mark.parametrize(
    "change", [{"size": 0}, {"share": math.nan}, {"kind": "c"}, {"sides": [1]}, {"end": "x"}, {"more": 1}], ids=str
)
def test_the_kind_of_a_record_takes_nothing_else(change: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError):
        check({"size": 1, "share": 0, "kind": "a", **change}, EXAMPLE, "a.json", ArtifactError, "")
