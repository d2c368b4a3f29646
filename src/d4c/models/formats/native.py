"""Reads and writes d4c's own layout of a float CLIP: its architecture in config.json, its weights in model.safetensors.

The layout holds every CLIP, including those with towers defined outside d4c; `load` reads the folder back.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from d4c.errors import CheckpointError
from d4c.files import write_json
from d4c.models.config import CLIPConfig
from d4c.outputs import output_folder

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FORMAT_VERSION = 1


def write_native(config: CLIPConfig, name: str, state: Mapping[str, Tensor], folder: Path) -> None:
    """Write a float CLIP to a folder, atomically.

    Args:
        config: The architecture.
        name: A label for reports.
        state: The parameters and buffers.
        folder: Where to write; an earlier float model there is replaced.

    Raises:
        ArtifactError: The folder holds something that d4c did not write, or cannot be replaced.
    """
    with output_folder(folder, "float model") as temporary:
        tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        write_json(
            temporary / CONFIG, {"format_version": FORMAT_VERSION, "name": name, "architecture": config.to_dict()}
        )


def is_native(data: Mapping[str, Any]) -> bool:
    """Whether the content of a config.json is that of a float CLIP in this layout."""
    return "architecture" in data and "quantization_config" not in data


def native_config(data: Mapping[str, Any], source: str) -> CLIPConfig:
    """Return the configuration in a config.json of this layout; raises CheckpointError if it does not describe one."""
    try:
        if data["format_version"] > FORMAT_VERSION:
            raise CheckpointError(
                f"{source} has format version {data['format_version']}, expected at most {FORMAT_VERSION}; "
                "install a newer d4c."
            )
        return CLIPConfig.from_dict(data["architecture"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{source} has a config.json that does not describe a CLIP ({error!r}); save the model again."
        ) from None
