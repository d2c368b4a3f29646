"""The settings of a run: one record made of the two halves' records, from options or from a TOML file."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from d4c.errors import SettingError, reason_of, require
from d4c.models.tower_config import Activation
from d4c.quantization.config import QuantizeConfig, quantize_config
from d4c.quantization.formats.scheme import Scheme
from d4c.reading.ranges import HEADS, IMAGE_SIZE
from d4c.reading.schema import Kind, List, Maybe, Record, check
from d4c.settings.presets import Preset
from d4c.settings.records import check_types
from d4c.storage.files import read_text
from d4c.synthesis.config import SynthesisConfig, synthesis_config

SECTIONS = ("synthesis", "quantization")
RANGES: dict[str, Kind] = {"heads": Maybe(List(HEADS, 2, 2)), "image_size": Maybe(IMAGE_SIZE)}
"""What the numbers of a `RunConfig` may be, for any model."""
MOST_DOTS = 200
"""The largest number of dots in a line of TOML, outside of its strings. Keys have one or two."""
STRINGS = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'')


@dataclass(frozen=True)
class RunConfig:
    """What `d4c run` does: a model and a dataset, how images are made, and how both towers are quantized."""

    model: str
    """Anything that `d4c.load` takes by name."""
    pretrained: str | None = None
    """Weights of an open_clip name."""
    activation: Activation | None = None
    """Activation of the MLPs, in place of what a configuration says or what is assumed."""
    heads: tuple[int, int] | None = None
    """Attention heads of the image and the text tower, likewise."""
    image_size: int | None = None
    """Side of pictures in pixels, if not that of the model."""
    dataset: str = "demo"
    strict: bool = False
    """Whether an image of the dataset that does not decode is an error."""
    device: str = "auto"
    """A name that PyTorch knows, or "auto" for a GPU if there is one."""
    more_schemes: tuple[str, ...] = ()
    """Schemes whose rows the table has as well; the first scheme is that of `quantization`."""
    synthesis: SynthesisConfig = field(default_factory=synthesis_config)
    quantization: QuantizeConfig = field(default_factory=quantize_config)

    def __post_init__(self) -> None:
        schemes: object = self.more_schemes
        if isinstance(schemes, list | tuple):
            plain = tuple(str(Scheme.parse(scheme)) for scheme in schemes)
            object.__setattr__(self, "more_schemes", plain)
        heads: object = self.heads
        if isinstance(heads, list):
            object.__setattr__(self, "heads", tuple(heads))
        check_types(self, "run")
        numbers = {"heads": self.heads and list(self.heads), "image_size": self.image_size}
        check(numbers, Record(RANGES), "The run", SettingError, "choose others")
        for scheme in self.schemes:
            if self.schemes.count(scheme) > 1:
                raise SettingError(f"The scheme {scheme} is given twice; leave one of them out.")

    @property
    def schemes(self) -> tuple[str, ...]:
        """Every scheme of the table, the first one's model being the result of the run."""
        return (self.quantization.scheme, *self.more_schemes)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `run_config` is its inverse."""
        data = {**asdict(self), "more_schemes": list(self.more_schemes), "heads": self.heads and list(self.heads)}
        return data | {"quantization": self.quantization.to_dict()}

    def to_toml(self) -> str:
        """The record as a file that `read_toml` reads; what is None is left out."""
        data = {
            name: {key: item for key, item in value.items() if item is not None} if name in SECTIONS else value
            for name, value in self.to_dict().items()
            if value is not None
        }
        return str(require("tomli_w", "quantize", "Writing TOML needs").dumps(data))


def run_config(data: Mapping[str, Any]) -> RunConfig:
    """A record from nested settings, as in a file; a preset among them fills in what they leave out.

    Args:
        data: Fields of `RunConfig`, the two records as tables of fields, and optionally "preset".

    Raises:
        SettingError: For an unknown name, a value that cannot be, or a missing model.
    """
    names = [item.name for item in fields(RunConfig)]
    for name in data:
        if name not in (*names, "preset"):
            raise SettingError(f"There is no run setting {name!r}; use one of preset, {', '.join(names)}.")
    for name in SECTIONS:
        if not isinstance(data.get(name, {}), Mapping):
            raise SettingError(f"The run setting {name} is {data[name]!r}, expected a table of settings.")
    if data.get("model") is None:
        raise SettingError("The run has no model; name one such as 'demo-vit', a file or a folder.")
    preset: Preset | None = data.get("preset")
    plain = {name: data[name] for name in names if name not in SECTIONS and data.get(name) is not None}
    return RunConfig(
        **plain,
        synthesis=synthesis_config(None, preset, data.get("synthesis")),
        quantization=quantize_config(None, preset, data.get("quantization")),
    )


def read_toml(path: Path) -> dict[str, Any]:
    """The nested settings of a file, for `run_config`. Raises SettingError for a file that is not TOML."""
    try:
        text = read_text(path)
        if any(line.count(".") > MOST_DOTS for line in STRINGS.sub("", text).splitlines()):
            raise ValueError(f"a key has more than {MOST_DOTS} dots")  # tomllib takes their number squared
        return tomllib.loads(text)
    except OSError as error:
        raise SettingError(f"{path} cannot be read ({error.strerror}); give a TOML file of settings.") from None
    # Besides its own error, tomllib raises ValueError for long numbers and recurses without a limit.
    except (ValueError, RecursionError) as error:
        raise SettingError(f"{path} is not TOML ({reason_of(error)}); write it as --dry-run prints it.") from None


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with others in their place; None changes nothing."""
    out = dict(settings)
    for name, value in changes.items():
        if isinstance(value, Mapping):
            table = out.get(name, {})
            if isinstance(table, Mapping):  # anything else is for `run_config` to refuse
                out[name] = {**table, **{key: item for key, item in value.items() if item is not None}}
        elif value is not None:
            out[name] = value
    return out
