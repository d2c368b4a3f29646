"""What a scheme may be and how it is written."""

from __future__ import annotations

import pytest

from d4c.errors import SettingError
from d4c.quantization.formats.pair_sums import always_fit
from d4c.quantization.formats.scheme import QuantArgs, Scheme

EVERY = [(w, a) for w in range(2, 9) for a in range(2, 9)]


@pytest.mark.parametrize(("weight", "activation"), EVERY, ids=[f"W{w}A{a}" for w, a in EVERY])
def test_every_scheme_reads_back(weight: int, activation: int) -> None:
    scheme = Scheme(weight, activation)
    assert Scheme.parse(str(scheme)) == Scheme.parse(scheme) == Scheme.parse(f" w{weight}a{activation} ") == scheme


@pytest.mark.parametrize(
    "text",
    ["W1A8", "W9A8", "W8A1", "W4", "", "W4A99", "W4A4x", "A8W4", "W-4A8", "W4A8A8", "W٤A٨", f"W4A{'9' * 5000}"],
    ids=lambda text: repr(text[:12]),
)
def test_anything_else_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(SettingError) as caught:
        Scheme.parse(text)
    message = str(caught.value)
    assert repr(text) in message
    assert message.endswith(".")
    assert "\n" not in message


@pytest.mark.parametrize("value", [None, 4, ["W4A4"]], ids=repr)
def test_what_is_no_text_is_refused_by_its_type(value: object) -> None:
    with pytest.raises(SettingError, match=f"type {type(value).__name__}, expected text such as 'W4A8'"):
        Scheme.parse(value)  # type: ignore[arg-type]


def test_a_scheme_made_by_hand_is_checked_as_well() -> None:
    with pytest.raises(SettingError, match="activation bits of W4A16"):
        Scheme.parse(Scheme(4, 16))


@pytest.mark.parametrize("bits", range(2, 9))
def test_signed_and_unsigned_codes_are_as_many(bits: int) -> None:
    signed, unsigned = QuantArgs(bits, True, "channel"), QuantArgs(bits, False, "tensor")
    assert signed.qmax - signed.qmin == unsigned.qmax - unsigned.qmin == 2**bits - 1
    assert (signed.qmin + signed.qmax, unsigned.qmin) == (-1, 0)


@pytest.mark.parametrize("bits", range(2, 9))
def test_two_products_fit_16_bits_unless_both_formats_have_8(bits: int) -> None:
    assert always_fit(-QuantArgs(bits, True, "channel").qmin, QuantArgs(8, False, "tensor").qmax) == (bits < 8)
    assert always_fit(-QuantArgs(8, True, "channel").qmin, QuantArgs(bits, False, "tensor").qmax) == (bits < 8)


EXAMPLES = [QuantArgs(4, True, "channel"), QuantArgs(8, False, "tensor"), QuantArgs(8, True, "channel", True)]


@pytest.mark.parametrize("args", EXAMPLES, ids=str)
def test_number_formats_read_back(args: QuantArgs) -> None:
    assert QuantArgs.from_dict(args.to_dict()) == args


@pytest.mark.parametrize(
    "change",
    [
        *({"num_bits": bits} for bits in (9, 1, "4", True, 4.0)),
        {"symmetric": 1},
        {"observer_kwargs": {"pairs_fit": 1}},
        {"observer_kwargs": {"pairs_fit": True}, "symmetric": False},
        {"observer_kwargs": [1]},
        {"strategy": "block"},
        {"strategy": ["tensor"]},
        {"type": "float"},
    ],
    ids=str,
)
def test_foreign_number_formats_are_refused(change: dict[str, object]) -> None:
    with pytest.raises((TypeError, SettingError)):
        QuantArgs.from_dict({**QuantArgs(4, True, "channel").to_dict(), **change})
