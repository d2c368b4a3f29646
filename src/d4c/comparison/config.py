"""The grid of a comparison: one frozen record, from options or from a TOML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from d4c.calibration.prompts import resolve_prompts
from d4c.deployment.onnx.onnx_target import LIBRARIES
from d4c.errors import SettingError, require
from d4c.evaluation.load_dataset import find_data
from d4c.quantization.config import QuantizeConfig, Reconstruction, TowerName, quantize_config
from d4c.quantization.formats.scheme import FLOAT, Scheme, Track
from d4c.settings.presets import COMPARISON_PRESET, Preset
from d4c.settings.records import check_types
from d4c.synthesis.config import SynthesisConfig, synthesis_config
from d4c.synthesis.methods.table import METHODS

REAL = "real:"
"""How a method begins that takes images of a dataset in place of synthetic ones."""
BY_TRACK = "default"
"""The reconstruction that the preset and the track ask for."""
TOWERS: dict[str, tuple[TowerName, ...]] = {"both": ("image", "text"), "image": ("image",), "text": ("text",)}

Towers = Literal["both", "image", "text"]


@dataclass(frozen=True)
class ComparisonConfig:
    """What `d4c compare` measures: every combination of the values that are given."""

    models: tuple[str, ...]
    """Anything that `d4c.load` takes by name."""
    pretrained: str | None = None
    """Weights of open_clip names."""
    methods: tuple[str, ...] = ("noise", "leaves", "d4c")
    """Methods of synthesis; "METHOD:FILE" for the prompts of a file, "real:SPEC" for images of a dataset. Others are
    compared with the first one."""
    schemes: tuple[str, ...] = ("W8A8", "W4A4")
    tracks: tuple[Track, ...] = ("deployable",)
    reconstructions: tuple[str, ...] = (BY_TRACK,)
    towers: tuple[Towers, ...] = ("both",)
    seeds: tuple[int, ...] = (0,)
    datasets: tuple[str, ...] = ("demo",)
    preset: Preset = COMPARISON_PRESET
    """Fills in the settings of synthesis and quantization that are not given here."""
    images: int | None = None
    """Calibration images; by preset."""
    iterations: int | None = None
    """Steps of the synthesis; by preset."""
    steps: int | None = None
    """Steps of a learned reconstruction; by preset and track."""
    wide_class_token: bool = QuantizeConfig.wide_class_token
    """Whether the class token has a range of its own at 8 bits where activations have fewer."""
    limit: int | None = None
    """Images of each dataset that are used, evenly spread; all by default."""
    latency: bool = False
    """Also export each model and time it beside the float model, on the CPU."""
    device: str = "auto"

    def __post_init__(self) -> None:
        for item in fields(self):
            value: object = getattr(self, item.name)
            if isinstance(value, list):
                object.__setattr__(self, item.name, tuple(value))
        check_types(self, "comparison")
        object.__setattr__(self, "schemes", tuple(str(Scheme.parse(scheme)) for scheme in self.schemes))
        for name in ("models", "methods", "schemes", "tracks", "reconstructions", "towers", "seeds", "datasets"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise SettingError(
                    f"The comparison setting {name} is {list(values)!r}, expected different values; correct the list."
                )
        for method in self.methods:
            if not method.startswith(REAL):
                _check_method(method, self.synthesis(method, 0) if name_of(method) in METHODS else None)
        for kind in self.reconstructions:
            if kind != BY_TRACK and kind not in get_args(Reconstruction):
                choices = ", ".join((BY_TRACK, *get_args(Reconstruction)))
                raise SettingError(f"The reconstruction {kind!r} is unknown; use one of {choices}.")

    def check_data(self) -> None:
        """Raise an error for data, prompts and libraries that are not there, before any work."""
        if self.latency:
            for library, extra in LIBRARIES.items():
                require(library, extra, "Timing a model needs")
        for spec in (*self.datasets, *real_specs(self.methods)):
            find_data(spec)
        for file in filter(None, map(prompts_file, self.methods)):
            resolve_prompts(file)

    def synthesis(self, method: str, seed: int) -> SynthesisConfig:
        """The settings that images are made with; of real images only their number counts."""
        name = "noise" if method.startswith(REAL) else name_of(method)
        return synthesis_config(name, self.preset, {"images": self.images, "iterations": self.iterations, "seed": seed})

    def quantization(self, cell: Cell) -> QuantizeConfig:
        """The settings that a cell is quantized with."""
        return quantize_config(
            cell.scheme,
            self.preset,
            {
                "track": cell.track,
                "reconstruction": None if cell.reconstruction == BY_TRACK else cell.reconstruction,
                "towers": TOWERS[cell.towers],
                "iterations": self.steps,
                "wide_class_token": self.wide_class_token,
                "seed": cell.seed,
            },
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form; `comparison_config` is its inverse."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def to_toml(self) -> str:
        """The record as a file that `run.config.read_toml` reads; what is None is left out."""
        data = {name: value for name, value in self.to_dict().items() if value is not None}
        return str(require("tomli_w", "quantize", "Writing TOML needs").dumps(data))


@dataclass(frozen=True)
class Source:
    """Where calibration images come from: a method for a model with a seed."""

    model: str
    method: str
    seed: int


@dataclass(frozen=True)
class Cell:
    """One combination of the grid. The float model is a cell, too, whose scheme is "float"."""

    model: str
    method: str = FLOAT
    seed: int = 0
    scheme: str = FLOAT
    track: str = "deployable"
    reconstruction: str = BY_TRACK
    towers: str = "both"

    @property
    def is_float(self) -> bool:
        """Whether nothing is quantized."""
        return self.scheme == FLOAT

    @property
    def source(self) -> Source:
        """The images that it is calibrated with."""
        return Source(self.model, self.method, self.seed)


def name_of(method: str) -> str:
    """The method without its prompts or dataset."""
    return method.partition(":")[0]


def short_name(method: str) -> str:
    """The method with the file or dataset that it names without folders and ending: "real:train", "d4c:nouns"."""
    name, colon, source = method.partition(":")
    return f"{name}:{Path(source.rpartition(':')[2]).stem}" if colon else method


def prompts_file(method: str) -> Path | None:
    """The file of prompts that a method names."""
    _, colon, file = method.partition(":")
    return Path(file) if colon and not method.startswith(REAL) else None


def real_specs(methods: Sequence[str]) -> list[str]:
    """The datasets among methods, whose images calibrate."""
    return [method.removeprefix(REAL) for method in methods if method.startswith(REAL)]


def _check_method(method: str, settings: SynthesisConfig | None) -> None:
    if settings is None:
        raise SettingError(
            f"The method {method!r} is unknown; use {', '.join(METHODS)}, METHOD:FILE with prompts or {REAL}SPEC with "
            "a dataset."
        )
    if prompts_file(method) is not None and not settings.needs.prompts:
        raise SettingError(f"The method {method!r} names prompts, but {name_of(method)} needs none; leave them out.")


def comparison_config(data: Mapping[str, Any]) -> ComparisonConfig:
    """A record from settings as in a file.

    Raises:
        SettingError: For an unknown name, a value that cannot be, or missing models.
    """
    names = [item.name for item in fields(ComparisonConfig)]
    for name in data:
        if name not in names:
            raise SettingError(f"There is no comparison setting {name!r}; use one of {', '.join(names)}.")
    given = {name: value for name, value in data.items() if value is not None}
    if not given.get("models"):
        raise SettingError("The comparison has no models; name one such as 'demo-vit', a file or a folder.")
    return ComparisonConfig(**given)


def cells(config: ComparisonConfig) -> list[Cell]:
    """List all cells: of each model the float one, and then those of one source of images together."""
    listed = []
    for model in config.models:
        listed.append(Cell(model))
        listed += [
            Cell(model, method, seed, scheme, track, reconstruction, towers)
            for seed in config.seeds
            for method in config.methods
            for scheme in config.schemes
            for track in config.tracks
            for reconstruction in config.reconstructions
            for towers in config.towers
        ]
    return listed
