"""Says in words which layers stand out, and what to do about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from d4c.quantization.formats.scheme import MAX_BITS, Scheme
from d4c.report.measures.layer_errors import LayerError

FAR = 6.0
"""A layer stands out if it is so many dB below the median layer of its tower: four times the noise."""
OVERFIT = 3.0
"""A layer is fitted to its samples if it is so many dB better on them than on others: half the noise."""
HALF = 3.0
"""Noise of the weights so many dB below that of the whole layer is half of it."""
FEW = 3
"""How many layers of a kind are named in a tower."""


@dataclass(frozen=True)
class Remedy:
    """A layer that stands out, or layers that do for one reason.

    Attributes:
        layer: Its name, or those of the worst.
        fact: What was measured, in one sentence.
        advice: What to do, in one sentence.
        command: The option of `d4c quantize` that does it; empty where none does.
    """

    layer: str
    fact: str
    advice: str
    command: str = ""


def remedies(errors: Sequence[LayerError]) -> tuple[Remedy, ...]:
    """The layers that stand out, tower by tower, the noisiest first."""
    found: list[Remedy] = []
    for tower in dict.fromkeys(error.tower for error in errors):
        own = [error for error in errors if error.tower == tower]
        middle = median(error.alone for error in own)
        far = sorted((error for error in own if error.alone < middle - FAR), key=lambda error: error.alone)
        found += [_noisy(error, middle) for error in far[:FEW]]
        fitted = sorted((error for error in own if error.gap > OVERFIT), key=lambda error: -error.gap)
        if fitted:
            found.append(_overfit(fitted, len(own)))
    return tuple(found)


def _noisy(error: LayerError, middle: float) -> Remedy:
    fact = (
        f"{error.alone:.1f} dB of signal to noise alone, where the median layer of the {error.tower} tower has "
        f"{middle:.1f} dB."
    )
    weights_dominate = error.by_weights is not None and error.by_weights < error.alone + HALF
    if weights_dominate and error.weight_bits < MAX_BITS:
        command = _override(error, MAX_BITS, error.input_bits)
        return Remedy(error.name, fact, "Its weights cause most of it; give them more bits:", command)
    if not weights_dominate and 0 < error.input_bits < MAX_BITS:
        command = _override(error, error.weight_bits or MAX_BITS, MAX_BITS)
        return Remedy(error.name, fact, "Its inputs cause most of it; give them more bits:", command)
    if error.loud:
        advice = "Its loud channels already have a scale of their own; calibrate with images that make them fire."
    else:
        part = "weights" if weights_dominate else "inputs"
        advice = f"Its {part} already have {MAX_BITS} bits; nothing to do unless the curve of all layers falls here."
    return Remedy(error.name, fact, advice)


def _override(error: LayerError, weight_bits: int, input_bits: int) -> str:
    return f"--override '{error.name}={Scheme(weight_bits, input_bits or MAX_BITS)}'"


def _overfit(fitted: Sequence[LayerError], count: int) -> Remedy:
    worst, tower = fitted[0], fitted[0].tower
    fact = (
        f"{worst.gap:.1f} dB better alone on calibration samples than on others; {len(fitted)} of {count} layers of "
        f"the {tower} tower are more than {OVERFIT:.0f} dB better: they are fitted to what they saw."
    )
    more = "images that are more like yours, or more of them (--images)" if tower == "image" else "prompts like yours"
    return Remedy(worst.name, fact, f"Calibrate with {more}, or learn fewer steps (--iterations).")
