"""Reads and writes d4c's own layout of a float CLIP: its architecture in config.json, its weights in model.safetensors,
and tokenizer.json if its tokenizer is not CLIP's.

The layout holds every CLIP, including those with towers defined outside d4c; `load` reads the folder back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from d4c.errors import CheckpointError
from d4c.models.config import CLIPConfig
from d4c.models.inputs.tokenizer_files import FILES as TOKENIZER_FILES
from d4c.reading.schema import Record, Text, check, check_version
from d4c.reading.seal import FILES, check_file, check_seal, file_hashes, write_sealed
from d4c.storage.outputs import output_folder

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FORMAT_VERSION = 1
ADVICE = "save the model again"
CONTENT = Record({"name": Text(), "architecture": Record(), "files": Record({WEIGHTS: FILES.kind})})
"""What config.json holds."""


def write_native(
    config: CLIPConfig,
    name: str,
    state: Mapping[str, Tensor],
    folder: Path,
    save_tokenizer: Callable[[Path], None] | None = None,
) -> None:
    """Write a float CLIP to a folder, atomically.

    Args:
        config: The architecture.
        name: A label for reports.
        state: The parameters and buffers.
        folder: Where to write; an earlier float model there is replaced.
        save_tokenizer: Writes a tokenizer of its own into a folder.

    Raises:
        ArtifactError: The folder holds something that d4c did not write, or cannot be replaced.
    """
    with output_folder(folder, "float model") as temporary:
        tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})
        if save_tokenizer is not None:
            save_tokenizer(temporary)
        files = sorted(file.name for file in temporary.iterdir())
        record = {"format_version": FORMAT_VERSION, "name": name, "architecture": config.to_dict()}
        write_sealed(temporary / CONFIG, {**record, "files": file_hashes(temporary, files)})


def is_native(data: Mapping[str, Any]) -> bool:
    """Whether the content of a config.json is that of a float CLIP in this layout."""
    return "architecture" in data and "quantization_config" not in data


def native_config(data: Mapping[str, Any], folder: Path, source: str) -> CLIPConfig:
    """Return the configuration in a config.json of this layout.

    Args:
        data: The content of config.json.
        folder: Where it was read.
        source: Names the model in error messages.

    Raises:
        CheckpointError: It does not describe a CLIP, or it or the weights have changed since they were written.
    """
    check_version(data, FORMAT_VERSION, source, CheckpointError, ADVICE)
    check_seal(data, source, CheckpointError, ADVICE)
    check(data, CONTENT, source, CheckpointError, ADVICE)
    for name in (WEIGHTS, *TOKENIZER_FILES):
        if name in data["files"] and (folder / name).is_file():
            check_file(folder / name, data["files"][name], CheckpointError, ADVICE)
    return CLIPConfig.from_dict(data["architecture"], f"{source}: architecture", CheckpointError, ADVICE)
