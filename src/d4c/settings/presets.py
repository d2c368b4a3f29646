"""What each preset changes in the default settings of synthesis and quantization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Preset = Literal["quick", "default", "paper"]
DEFAULT_PRESET: Preset = "default"
COMPARISON_PRESET: Preset = "quick"


@dataclass(frozen=True)
class PresetSettings:
    """The fields of `SynthesisConfig` and of `QuantizeConfig` that a preset sets."""

    synthesis: dict[str, Any]
    quantization: dict[str, Any]


_SMOOTH = {"targets": "even", "start": "pink", "statistics": "set", "pse_form": "psaq", "precision": "auto"}
"""All prompts come equally often, images start with the spectrum of photographs, and "bns" and "pse" are in their
complete forms ("set" and "psaq")."""

SETTINGS: dict[Preset, PresetSettings] = {
    # About a minute of synthesis for "demo-vit" on two CPU cores, and weights rounded in closed form. A run that asks
    # for learned rounding gets few steps.
    "quick": PresetSettings(
        synthesis={**_SMOOTH, "images": 64, "iterations": 48, "lr": 0.06},
        quantization={"reconstruction": "gptq", "iterations": 60, "batch_size": 8},
    ),
    # A sixth of the synthesis iterations of "paper", which ends at a lower loss; accuracy after quantization has not
    # been compared. Quantization is that of the deployable track: GPTQ for 8-bit activations, else whole
    # blocks, 500 steps each.
    "default": PresetSettings(synthesis={**_SMOOTH, "iterations": 500}, quantization={}),
    # Every published setting, including where quantizers are placed: no integer hardware computes the result.
    "paper": PresetSettings(synthesis={}, quantization={"track": "paper"}),
}
