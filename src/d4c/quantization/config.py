"""The settings of `quantize`: one record, checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from d4c.errors import SettingError
from d4c.quantization.formats.scheme import Scheme, Track, override_name, parse_override
from d4c.quantization.layer_patterns import alternatives
from d4c.quantization.rounding.config import PAPER, Importance, ReconstructionConfig
from d4c.reading.ranges import COUNT, SEED
from d4c.reading.schema import Kind, Maybe, Number, Record, Whole, check
from d4c.settings.presets import DEFAULT_PRESET, SETTINGS, Preset
from d4c.settings.records import check_types, with_settings

TowerName = Literal["image", "text"]

RANGES: dict[str, Kind] = {
    "iterations": Maybe(COUNT),
    "batch_size": Maybe(COUNT),
    "target_bits": Maybe(Number(0, 64)),
    "target_bytes": Maybe(Whole(0, 1 << 50)),
    "seed": SEED,
}
"""What the numbers of a `QuantizeConfig` may be."""

RangeRule = Literal["mse", "minmax", "percentile"]
"""How the range of an activation follows from its values: least error, all of them, or all but one in a thousand."""

Reconstruction = Literal["block", "layer", "published", "gptq", "none"]
"""What is learned after ranges are chosen: whole blocks, single layers, as published (transformer layers and ResNet
bottlenecks), weights in closed form, or nothing."""


@dataclass(frozen=True)
class QuantizeConfig:
    """Everything that decides how a CLIP is quantized, apart from the CLIP, the images and the prompts.

    The fields are plain values, as JSON and TOML hold them. What is None follows from the track and the scheme, see
    `resolved`.
    Raises SettingError for a value that no quantization can have.
    """

    scheme: str = "W4A8"
    """Bits of weights and activations, 2 to 8 each; a `Scheme` is taken as well."""
    track: Track = "deployable"
    """Deployable: the simulation is what integer hardware computes. Paper: quantizers in the published places."""
    ranges: RangeRule = "mse"
    """Of activations; ranges of weights are always searched for the least error."""
    reconstruction: Reconstruction | None = None
    """By default "published" on track "paper", "gptq" where activations have 8 bits, where learned blocks gain nothing
    with synthetic images, else "block"."""
    iterations: int | None = None
    """Steps for each unit; learning rates grow with the root of the ratio where they are fewer."""
    batch_size: int | None = None
    """Samples in each step."""
    importance: Importance = "none"
    """Whether image tokens of a vision transformer count by what their errors do to the embedding, or to the zero-shot
    distribution over generic prompts."""
    overrides: Mapping[str, str] = field(default_factory=dict)
    """Schemes, or "float", by pattern over layer names, with shell wildcards (`layer_patterns`); they come after the
    track's exceptions, and the last match wins."""
    target_bits: float | None = None
    """Mean bits per weight: layers without exception get widths by measured sensitivity, see `mixed_overrides`."""
    target_bytes: int | None = None
    """The same, as bytes of all packed weights; scales, biases and norms come on top."""
    full_range: bool = False
    """Let 8-bit weights use all codes, which is exact only on processors that do not add two products in 16 bits (see
    `pair_sums`); by default every processor is exact. Other widths are exact anyway."""
    wide_class_token: bool = True
    """Give the class token of a vision transformer a range of its own at 8 bits wherever activations have fewer; never
    on track "paper"."""
    soften: bool = True
    """Use every second image at a half or a quarter of its sharpness, so that the result holds for enlarged and blurred
    pictures; never on track "paper"."""
    towers: tuple[TowerName, ...] = get_args(TowerName)
    """The towers to quantize; another one stays float."""
    seed: int = 0

    def __post_init__(self) -> None:
        towers: object = self.towers
        plain = {
            "scheme": str(Scheme.parse(self.scheme)),
            "overrides": _parsed(self.overrides),
            "towers": tuple(towers) if isinstance(towers, list) else towers,
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        check_types(self, "quantization")
        for name, kind in RANGES.items():
            check({name: getattr(self, name)}, Record({name: kind}), "The quantization", SettingError, "choose one")
        if not self.towers:
            raise SettingError("The quantization setting towers is empty, expected 'image', 'text' or both.")
        if self.target_bits is not None and self.target_bytes is not None:
            raise SettingError(
                f"The targets {self.target_bits} bits and {self.target_bytes} bytes exclude each other; give one."
            )
        if self.full_range and self.track == "paper":
            raise SettingError(
                "full_range is for integer kernels, which compute nothing of track 'paper'; leave one out."
            )

    def resolved(self) -> QuantizeConfig:
        """The same quantization with what follows from the track and the scheme filled in.

        Fields that the reconstruction does not read are None, or "none". Two records with equal resolved forms give
        the same weights.
        """
        paper = self.track == "paper"
        kind = self.reconstruction or self._usual_reconstruction()
        learns = kind not in ("gptq", "none")
        learning = self.learning()
        return replace(
            self,
            reconstruction=kind,
            iterations=learning.iterations if learns else None,
            batch_size=learning.batch_size if learns else None,
            importance=self.importance if learns else "none",
            wide_class_token=self.wide_class_token and not paper and "image" in self.towers,
            soften=self.soften and not paper,
        )

    def _usual_reconstruction(self) -> Reconstruction:
        if self.track == "paper":
            return "published"
        return "gptq" if Scheme.parse(self.scheme).activation_bits == 8 else "block"

    def learning(self) -> ReconstructionConfig:
        """How each unit is optimized: the track's settings in this number of steps and with this batch size."""
        learning = PAPER if self.track == "paper" else ReconstructionConfig()
        if self.iterations is not None:
            learning = learning.shortened(self.iterations)
        return replace(learning, batch_size=self.batch_size or learning.batch_size, importance=self.importance)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `QuantizeConfig(**data)` is its inverse."""
        return {**asdict(self), "towers": list(self.towers)}


def _parsed(overrides: object) -> object:
    """Overrides with checked patterns and schemes in their usual form; what is no table is left for `check_types`."""
    if not isinstance(overrides, Mapping):
        return overrides
    for pattern in overrides:
        alternatives(str(pattern))
    return {pattern: override_name(parse_override(scheme)) for pattern, scheme in overrides.items()}


PRESETS = {name: QuantizeConfig(**settings.quantization) for name, settings in SETTINGS.items()}


def quantize_config(
    scheme: str | Scheme | QuantizeConfig | None = None,
    preset: Preset | None = None,
    settings: Mapping[str, Any] | None = None,
) -> QuantizeConfig:
    """A record, or a preset with a scheme, with some fields replaced; those that are None stay as they are.

    Raises SettingError for unknown names, for values that no quantization can have, and for a preset that is given
    beside a record.
    """
    changes = dict(settings or {})
    if isinstance(scheme, QuantizeConfig):
        if preset is not None:
            raise SettingError(f"The preset {preset!r} is given beside a QuantizeConfig; leave one of them out.")
        return with_settings(scheme, changes, "quantization")
    chosen = preset or DEFAULT_PRESET
    if not isinstance(chosen, str) or chosen not in PRESETS:
        raise SettingError(f"The preset {chosen!r} is unknown; use one of {', '.join(PRESETS)}.")
    return with_settings(PRESETS[chosen], {"scheme": scheme, **changes}, "quantization")
