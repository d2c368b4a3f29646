"""`SynthesisConfig`: the settings of the synthesis, and its presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from d4c.errors import SettingError
from d4c.reading.ranges import COUNT, SEED
from d4c.reading.schema import shown
from d4c.settings.presets import DEFAULT_PRESET, SETTINGS, Preset
from d4c.settings.records import check_types, with_settings
from d4c.synthesis.methods.table import METHODS, Needs

LARGEST = 1e6
"""Of a factor or a weight."""

Precision = Literal["float32", "bf16", "auto"]
PromptForm = Literal["softmax", "sigmoid"]


@dataclass(frozen=True)
class SynthesisConfig:
    """Every setting of the synthesis; the defaults are the published ones.

    Parentheses name the methods that read a setting, unless all that optimize do: "views" are those that perturb images
    before the tower sees them ("d4c", "pgsi+pae"), "boxes" those with a foreground ("d4c", "pgsi+scg").

    Raises:
        SettingError: The method is unknown, or a value has the wrong type or is out of range.
    """

    method: str = "d4c"
    """A name in the table of methods (`d4c.synthesis.methods.table`)."""
    images: int = 128
    """Number of images to make (every method)."""
    iterations: int = 3000
    lr: float = 0.01
    """Learning rate of Adam, in units of normalized pixels."""
    temperature: float = 0.1
    """Divides cosines in the cross-entropy to the prompt (methods with prompts, in the form "softmax")."""
    prompt_form: PromptForm = "softmax"
    """The published cross-entropy, or the loss of single pairs as in the training of a SigLIP, at its scale and bias
    (methods with prompts)."""
    tv_weight: float = 0.1
    """Weight of total variation (all but "pse" in its form "psaq")."""
    group_size: int = 16
    """Images of one group are each other's negatives through their backgrounds, or share statistics in "bns"."""
    targets: Literal["random", "even"] = "random"
    """Each image's prompt drawn alone, or every prompt floor or ceil of images / prompts times."""
    start: Literal["noise", "pink"] = "noise"
    """N(0, 1) in normalized pixel space, or pictures of 1/f noise, which give smoother images in fewer iterations."""
    optimizer: Literal["shared", "independent"] = "shared"
    """One Adam that steps once per group while the other groups coast on their momentum, or one step per iteration."""
    area_min: float = 0.4
    """Smallest share of the image's area that a box has (boxes)."""
    area_max: float = 0.7
    """Largest share of the image's area that a box has (boxes)."""
    background_noise: float = 0.1
    """Standard deviation of the noise added to backgrounds (boxes)."""
    flip_p: float = 0.5
    """Probability of mirroring left to right (views, "psaq")."""
    rotation: float = 15.0
    """Largest rotation in degrees (views)."""
    scale: float = 0.05
    """Largest change of scale (views)."""
    translate: float = 0.05
    """Largest shift on the grid from -1 to 1 (views)."""
    brightness: float = 0.4
    """Largest change of the factor of brightness; also of `contrast` and `saturation` (views)."""
    contrast: float = 0.4
    saturation: float = 0.4
    blur_p: float = 0.3
    """Probability of a blur (views)."""
    erase_p: float = 0.3
    """Probability of an erased square (views)."""
    erase_side: float = 0.2
    """Side of the erased square as a share of the image's side (views)."""
    statistics: Literal["batch", "set"] = "batch"
    """Whether the statistics of each group or those of all images together are matched ("bns")."""
    pse_form: Literal["published", "psaq", "psaq-alone"] = "published"
    """The baseline in the code of D4C, which leaves much of PSAQ-ViT out, or PSAQ-ViT's own form, with the prompts that
    stand for its classes or, as for an image tower alone, without ("pse")."""
    tv_target: float = 0.2
    """Total variation at which an image of 224 x 224 pixels is held; smaller images have more ("psaq").

    It is PSAQ-ViT's norm of 2,750 over 4 directions and 32 images."""
    jitter: float = 15 / 224
    """Largest shift as a share of the side ("psaq")."""
    precision: Precision = "float32"
    """Type that the image tower computes in; "auto" is bf16 on devices with bf16 arithmetic and float32 on others.

    Images, loss and optimizer are always float32."""
    seed: int = 0
    """Seed of everything random, from 0 to 2^63 - 1 (every method)."""
    batch: int | None = None
    """Images that go through the tower at once, in whole groups, to save memory; None means all. Changes no image."""

    @property
    def needs(self) -> Needs:
        """What the method needs under these settings."""
        return METHODS[self.method].needs(self)

    @property
    def inseparable(self) -> int:
        """Number of images whose losses depend on one another, and that go through the tower together."""
        return self.images if self.needs.whole_set else self.group_size

    def __post_init__(self) -> None:
        check_types(self, "synthesis")
        if self.method not in METHODS:
            raise SettingError(f"The synthesis method {self.method!r} is unknown; use one of {', '.join(METHODS)}.")
        self.expect("seed", SEED.low <= self.seed <= SEED.high, "from 0 to 2^63 - 1")
        for name in ("images", "iterations", "group_size"):
            self.expect(name, COUNT.low <= getattr(self, name) <= COUNT.high, f"from {COUNT.low} to {COUNT.high}")
        for name in ("lr", "temperature", "tv_target"):
            self.expect(name, 0 < getattr(self, name) <= LARGEST, f"more than 0 and at most {LARGEST:g}")
        for name in ("tv_weight", "background_noise", "rotation", "translate"):
            self.expect(name, 0 <= getattr(self, name) <= LARGEST, f"from 0 to {LARGEST:g}")
        for name in ("flip_p", "blur_p", "erase_p", "erase_side", "jitter"):
            self.expect(name, 0 <= getattr(self, name) <= 1, "from 0 to 1")
        for name in ("brightness", "contrast", "saturation"):
            self.expect(name, 0 <= getattr(self, name) <= 1, "from 0 to 1")
        self.expect("scale", 0 <= self.scale <= 0.9, "from 0 to 0.9")
        self.expect("area_min", 0 < self.area_min <= self.area_max, "more than 0 and at most area_max")
        self.expect("area_max", self.area_max < 1, "less than 1")
        whole_groups = self.batch is None or (self.batch >= 1 and self.batch % self.group_size == 0)
        self.expect("batch", whole_groups, f"whole groups, a multiple of group_size = {self.group_size}")
        splits_set = self.inseparable > self.group_size and self.batch is not None
        self.expect(
            "batch", not splits_set, f'None since {self.method!r} compares the whole set (or statistics "batch")'
        )

    def expect(self, name: str, holds: bool, expected: str) -> None:
        """Raise SettingError for a field unless a condition holds."""
        if not holds:
            raise SettingError(f"The synthesis setting {name} is {shown(getattr(self, name))}, expected {expected}.")


PRESETS = {name: SynthesisConfig(**settings.synthesis) for name, settings in SETTINGS.items()}


def synthesis_config(
    method: str | SynthesisConfig | None = None,
    preset: Preset | None = None,
    settings: Mapping[str, Any] | None = None,
) -> SynthesisConfig:
    """Make a record from a preset or another record with some fields replaced.

    Args:
        method: A name in the table of methods, or a record.
        preset: A name in `PRESETS`; not together with a record.
        settings: New values by field of `SynthesisConfig`; fields whose value is None stay as they are.

    Returns:
        The record.

    Raises:
        SettingError: A name is unknown, a value is out of range, or a preset is given together with a record.
    """
    changes = dict(settings or {})
    if isinstance(method, SynthesisConfig):
        if preset is not None:
            raise SettingError(f"The preset {preset!r} is given beside a SynthesisConfig; leave one of them out.")
        return with_settings(method, changes, "synthesis")
    name = preset or DEFAULT_PRESET
    if not isinstance(name, str) or name not in PRESETS:
        raise SettingError(f"The preset {name!r} is unknown; use one of {', '.join(PRESETS)}.")
    return with_settings(PRESETS[name], {"method": method, **changes}, "synthesis")
