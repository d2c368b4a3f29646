"""Number formats and schemes, as small frozen records.

The field names are those of compressed-tensors, so that an artifact's config reads like its peers'.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from d4c.errors import SettingError
from d4c.quantization.formats.pair_sums import REDUCED_CODE

Strategy = Literal["tensor", "channel"]
Track = Literal["deployable", "paper"]
MIN_BITS, MAX_BITS = 2, 8


@dataclass(frozen=True)
class QuantArgs:
    """How one tensor is held: x is represented by scale * (code - zero_point).

    `symmetric` codes are signed, -2^(b-1) .. 2^(b-1) - 1, with zero point 0; otherwise they are unsigned,
    0 .. 2^b - 1. `strategy` says whether scale and zero point are one number or one a channel. `reduce_range` keeps
    signed codes within -63 .. 63, which needs no VNNI instructions to be exact.
    """

    num_bits: int
    symmetric: bool
    strategy: Strategy
    reduce_range: bool = False

    @property
    def qmin(self) -> int:
        lowest = -(1 << (self.num_bits - 1)) if self.symmetric else 0
        return max(lowest, -REDUCED_CODE) if self.reduce_range else lowest

    @property
    def qmax(self) -> int:
        highest = (1 << (self.num_bits - 1 if self.symmetric else self.num_bits)) - 1
        return min(highest, REDUCED_CODE) if self.reduce_range else highest

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, as compressed-tensors reads it; `reduce_range` stands there only where it holds."""
        data = {"type": "int", **asdict(self)}
        return data | {"observer_kwargs": {"reduce_range": True}} if data.pop("reduce_range") else data

    @staticmethod
    def from_dict(data: dict[str, Any]) -> QuantArgs:
        """Inverse of `to_dict`; raises KeyError, TypeError or SettingError on anything else."""
        reduced = dict(data.get("observer_kwargs", {})).get("reduce_range", False)
        args = QuantArgs(data["num_bits"], data["symmetric"], data["strategy"], reduced)
        known = data["type"] == "int" and args.strategy in ("tensor", "channel") and isinstance(args.symmetric, bool)
        if not known or not isinstance(args.reduce_range, bool) or (args.reduce_range and not args.symmetric):
            raise TypeError(f"not a number format: {data}")
        check_bits(args.num_bits, "num_bits")
        return args


@dataclass(frozen=True)
class Scheme:
    """Bits of weights and of activations, written W4A8."""

    weight_bits: int
    activation_bits: int

    def __str__(self) -> str:
        return f"W{self.weight_bits}A{self.activation_bits}"

    @staticmethod
    def parse(text: str | Scheme) -> Scheme:
        """Read "W4A8"; raises SettingError for anything but 2 to 8 bits each."""
        shown = str(text) if isinstance(text, Scheme) else repr(text)
        # A scheme made by hand has been through no check, so it is read like any other.
        match = re.fullmatch(r"[wW]([0-9]{1,4})[aA]([0-9]{1,4})", str(text).strip())
        if not match:
            raise SettingError(f"The scheme {shown} is not of the form W4A8; give weight and activation bits.")
        weight, activation = int(match[1]), int(match[2])
        check_bits(weight, f"the weight bits of {shown}")
        check_bits(activation, f"the activation bits of {shown}")
        return Scheme(weight, activation)


W8A8 = Scheme(8, 8)


def check_bits(bits: object, what: str) -> None:
    if not isinstance(bits, int) or isinstance(bits, bool) or not MIN_BITS <= bits <= MAX_BITS:
        raise SettingError(f"{what} is {bits!r}, but {MIN_BITS} to {MAX_BITS} bits are supported; choose one of these.")
