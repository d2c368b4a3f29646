"""How to make a model again: the command, all settings, versions, seeds and hashes."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from typing import Any

from d4c.calibration.images import read_record
from d4c.comparison.compare import Comparison
from d4c.quantization.config import QuantizeConfig
from d4c.report.subject import Subject
from d4c.run.config import run_config
from d4c.storage.manifest import versions
from d4c.synthesis.methods.table import METHODS

SETTINGS_FILE, GRID_FILE = "run.toml", "grid.toml"


@dataclass(frozen=True)
class Repeat:
    """What makes the same model, or measures the same comparison, again.

    Attributes:
        command: The command.
        settings: The file of settings that it reads; None if it reads none.
        versions: Versions of software, by stage.
        seeds: Seeds, by stage.
        hashes: SHA-256 of what went in and came out.
    """

    command: str
    settings: str | None
    versions: dict[str, dict[str, str | None]]
    seeds: dict[str, int]
    hashes: dict[str, str]


def how_to_compare_again(comparison: Comparison) -> Repeat:
    """Collect what measures a comparison again."""
    versions_on: dict[str, dict[str, str | None]] = {}
    hashes = {}
    for cell, result in comparison.results.items():
        if "unfit" in result:
            continue
        hashes[f"the weights of {cell.model}"] = result["model_sha256"]
        seen = versions_on.setdefault(f"what was measured on {result['device']}", {})
        for what, number in result["versions"].items():
            words = [] if seen.get(what) is None else str(seen[what]).split(" and ")
            seen[what] = " and ".join(dict.fromkeys([*words, str(number)]))
    command = shlex.join(["d4c", "compare", "--config", GRID_FILE, "-o", "again"])
    return Repeat(command, comparison.config.to_toml(), versions_on, {}, hashes)


def how_to_repeat(subject: Subject) -> Repeat:
    """Collect what makes a model again."""
    recipe = subject.recipe
    calibration = recipe["calibration"]
    settings = _settings(subject)
    if settings is None:
        command = _quantize_command(recipe)
    else:
        command = shlex.join(["d4c", "run", "--config", SETTINGS_FILE, "-o", "again"])
    made = calibration.get("versions")
    seeds = {"synthesis": calibration.get("seed"), "quantization": recipe["seed"]}
    return Repeat(
        command=command,
        settings=settings,
        versions={
            **({"synthesis": dict(made)} if isinstance(made, dict) else {}),
            "quantization": {"d4c": recipe["d4c"], "torch": recipe.get("torch")},
            "this report": versions(),
        },
        seeds={stage: seed for stage, seed in seeds.items() if isinstance(seed, int)},
        hashes={
            "float weights": recipe["model"]["sha256"],
            **_images_hash(subject),
            "quantized weights": subject.digest,
        },
    )


def is_data_free(recipe: dict[str, Any]) -> bool:
    """Whether the calibration images came from a method that sees no data."""
    return recipe["calibration"].get("method") in METHODS


def _settings(subject: Subject) -> str | None:
    """The settings as TOML: those of the run, or what the recipe of the artifact says of both steps."""
    recipe, synthesis = subject.recipe, subject.recipe["calibration"].get("config")
    if not is_data_free(recipe) or not isinstance(synthesis, dict):
        return None
    names = {item.name for item in fields(QuantizeConfig)} - {"target_bits", "target_bytes"}
    run = subject.run
    whole = {} if run is None else {**run.to_dict(), "more_schemes": []}
    model = {"model": recipe["model"]["name"]} if run is None else {}
    quantization = {name: recipe[name] for name in names if name in recipe}
    return run_config({**whole, **model, "synthesis": synthesis, "quantization": quantization}).to_toml()


def _quantize_command(recipe: dict[str, Any]) -> str:
    """The command for images that a user gave."""
    words = ["d4c", "quantize", "--model", recipe["model"]["name"], "--calibration", "PICTURES"]
    for name in ("scheme", "track", "ranges", "reconstruction", "iterations", "importance", "seed"):
        if recipe.get(name) is not None:
            words += [f"--{name}", str(recipe[name])]
    if len(recipe["towers"]) == 1:
        words += ["--towers", *recipe["towers"]]
    for pattern, scheme in recipe["overrides"].items():
        words += ["--override", f"{pattern}={scheme}"]
    switches = ("full_range", "wide_class_token", "soften")
    words += [f"--{'' if recipe.get(name) else 'no-'}{name.replace('_', '-')}" for name in switches]
    return shlex.join([*words, "-o", "again"])


def _images_hash(subject: Subject) -> dict[str, str]:
    if subject.images_folder is None:
        return {}
    return {"calibration images": str(read_record(subject.images_folder)["sha256"])}
