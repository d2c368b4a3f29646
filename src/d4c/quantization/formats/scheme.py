"""Number formats and schemes, as small frozen records.

The field names of a number format are those of compressed-tensors, whose readers thus understand an artifact's config.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from d4c.errors import SettingError
from d4c.reading.schema import Flag, OneOf, Record, Whole, check

Strategy = Literal["tensor", "channel", "token"]
Track = Literal["deployable", "paper"]
MIN_BITS, MAX_BITS = 2, 8


@dataclass(frozen=True)
class QuantArgs:
    """The number format of one tensor, whose values are held as scale * (code - zero_point).

    Attributes:
        num_bits: Bits b per code, 2 to 8.
        symmetric: Whether codes are signed, -2^(b-1) .. 2^(b-1) - 1, with zero point 0. Otherwise they are unsigned,
            0 .. 2^b - 1.
        strategy: One scale and zero point per tensor or per channel. With "token" the scale of a tensor is a share of
            the largest value of each row, by which its values are divided first: it follows the input ("dynamic").
        pairs_fit: Whether the products of any two adjacent weights fit 16 bits, which is exact on every processor (see
            `pair_sums`).
    """

    num_bits: int
    symmetric: bool
    strategy: Strategy
    pairs_fit: bool = False

    @property
    def qmin(self) -> int:
        """Smallest code."""
        return -(1 << (self.num_bits - 1)) if self.symmetric else 0

    @property
    def qmax(self) -> int:
        """Largest code."""
        return (1 << (self.num_bits - 1 if self.symmetric else self.num_bits)) - 1

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, as compressed-tensors reads it; `pairs_fit` is left out where it is false."""
        data = {"type": "int", **asdict(self)}
        if self.strategy == "token":
            data["dynamic"] = True
        return data | {"observer_kwargs": {"pairs_fit": True}} if data.pop("pairs_fit") else data

    @staticmethod
    def from_dict(data: dict[str, Any]) -> QuantArgs:
        """Inverse of `to_dict`; raises SettingError for anything else."""
        check(data, FORMAT_KIND, "The number format", SettingError, "give what QuantArgs.to_dict returns")
        pairs_fit = data.get("observer_kwargs", {}).get("pairs_fit", False)
        if pairs_fit and not data["symmetric"]:
            raise SettingError("The number format has pair sums that fit and is not symmetric; leave one of them out.")
        return QuantArgs(data["num_bits"], data["symmetric"], data["strategy"], pairs_fit)


FORMAT_KIND = Record(
    {
        "type": OneOf(("int",)),
        "num_bits": Whole(MIN_BITS, MAX_BITS),
        "symmetric": Flag(),
        "strategy": OneOf(get_args(Strategy)),
    },
    {"observer_kwargs": Record({}, {"pairs_fit": Flag()})},
)
"""What the dictionary of `QuantArgs.to_dict` holds."""


@dataclass(frozen=True)
class Scheme:
    """Bits of weights and of activations, written W4A8."""

    weight_bits: int
    activation_bits: int

    def __str__(self) -> str:
        return f"W{self.weight_bits}A{self.activation_bits}"

    @staticmethod
    def parse(text: str | Scheme) -> Scheme:
        """Read a scheme such as "W4A8".

        Raises:
            SettingError: It is no text of this form, or its bits are not 2 to 8 each.
        """
        given: object = text
        if not isinstance(given, str | Scheme):
            kind = type(given).__name__
            raise SettingError(f"The scheme is of type {kind}, expected text such as 'W4A8'; give that.")
        quoted = str(text) if isinstance(text, Scheme) else repr(text)
        # A Scheme that was constructed directly is unchecked, so it is parsed like any text.
        match = re.fullmatch(r"[wW]([0-9]{1,4})[aA]([0-9]{1,4})", str(text).strip())
        if not match:
            raise SettingError(f"The scheme {quoted} is not of the form W4A8; give weight and activation bits.")
        weight, activation = int(match[1]), int(match[2])
        check_bits(weight, f"The weight bits of {quoted}")
        check_bits(activation, f"The activation bits of {quoted}")
        return Scheme(weight, activation)


W8A8 = Scheme(8, 8)

FLOAT = "float"
Override = Scheme | None
"""What a pattern over layers gives them: a scheme, or None where they stay float."""


def parse_override(text: str | Scheme) -> Override:
    """Read a scheme or the word "float"; raises SettingError for anything else."""
    return None if str(text).strip().lower() == FLOAT else Scheme.parse(text)


def override_name(override: Override) -> str:
    """Write what `parse_override` reads."""
    return FLOAT if override is None else str(override)


def check_bits(bits: object, what: str) -> None:
    """Raise SettingError unless `bits` is an integer from 2 to 8; the message begins with `what` they are."""
    if not isinstance(bits, int) or isinstance(bits, bool) or not MIN_BITS <= bits <= MAX_BITS:
        raise SettingError(f"{what} is {bits!r}, expected {MIN_BITS} to {MAX_BITS}; choose one of these.")
