"""What each preset means, for the synthesis and for the quantization, over the defaults of their records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Preset = Literal["quick", "default", "paper"]
DEFAULT_PRESET: Preset = "default"


@dataclass(frozen=True)
class PresetSettings:
    """Fields of `SynthesisConfig` and of `QuantizeConfig` that a preset sets."""

    synthesis: dict[str, Any]
    quantization: dict[str, Any]


_SMOOTH = {"targets": "even", "start": "pink", "statistics": "set", "pse_form": "psaq", "precision": "auto"}
"""No prompt comes twice before all came once, the start has the spectrum of photographs, and "bns" and "pse" are their
complete forms ("set" and "psaq")."""

SETTINGS: dict[Preset, PresetSettings] = {
    # About a minute of synthesis for "demo-vit" on two CPU cores, and weights rounded in closed form. Where
    # rounding is learned all the same, it gets few steps.
    "quick": PresetSettings(
        synthesis={**_SMOOTH, "images": 64, "iterations": 48, "lr": 0.06},
        quantization={"reconstruction": "gptq", "iterations": 60, "batch_size": 8},
    ),
    # A sixth of the synthesis iterations of "paper", whose loss ends lower; accuracy after quantization has not been
    # compared. The quantization is the deployable track's: whole blocks, 500 steps each.
    "default": PresetSettings(synthesis={**_SMOOTH, "iterations": 500}, quantization={}),
    # Every published setting, quantizers in the published places included: no integer hardware computes the result.
    "paper": PresetSettings(synthesis={}, quantization={"track": "paper"}),
}
