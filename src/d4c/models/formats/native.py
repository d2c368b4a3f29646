"""d4c's own layout of a float CLIP: config.json with its architecture, model.safetensors with its parameters.

Any CLIP can be kept so, those with towers of one's own among them; `load` reads the folder back.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from d4c.errors import CheckpointError
from d4c.files import atomic_folder, refuse_occupied, write_json
from d4c.models.config import CLIPConfig

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FORMAT_VERSION = 1


def write_native(config: CLIPConfig, name: str, state: Mapping[str, Tensor], folder: Path) -> None:
    """Write a float CLIP so that it appears whole or not at all; an earlier one in `folder` is replaced.

    Raises ArtifactError if something else is there.
    """
    refuse_occupied(folder, lambda path: (path / CONFIG).is_file() and (path / WEIGHTS).is_file(), "a float model")
    with atomic_folder(folder) as new:
        tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        save_file(tensors, new / WEIGHTS, metadata={"format": "pt"})
        write_json(new / CONFIG, {"format_version": FORMAT_VERSION, "name": name, "architecture": config.to_dict()})


def is_native(data: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a float CLIP in this layout."""
    return "architecture" in data and "quantization_config" not in data


def native_config(data: Mapping[str, Any], source: str) -> CLIPConfig:
    """The configuration in such a config.json; raises CheckpointError if it does not describe a CLIP."""
    try:
        if data["format_version"] > FORMAT_VERSION:
            raise CheckpointError(f"{source} has format version {data['format_version']}; install a newer d4c.")
        return CLIPConfig.from_dict(data["architecture"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{source} does not describe a CLIP in its config.json ({error!r}); save the model again."
        ) from None
