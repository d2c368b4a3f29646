"""Tells what a folder holds that is not what was asked for."""

from __future__ import annotations

from pathlib import Path

from d4c.errors import ArtifactError
from d4c.reading.json_file import read_json

CONFIG_ADVICE = "give the folder that d4c quantize or save_pretrained wrote"


def refuse_other_folders(folder: Path) -> None:
    """Raise ArtifactError for a folder that something else reads, with the call that does."""
    if (folder / "export.json").is_file():
        raise ArtifactError(
            f"{folder} is an export, which runtimes execute, expected an artifact; use "
            f"d4c.load_quantized({str(folder)!r}, runtime='onnxruntime')."
        )
    if (folder / "artifact").is_dir():
        raise ArtifactError(f"{folder} is the folder of a run, expected an artifact; use {folder / 'artifact'}.")
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json", ArtifactError, CONFIG_ADVICE)
        if isinstance(config, dict) and "quantization_config" not in config:
            raise ArtifactError(
                f"{folder} is not a quantized model, expected what d4c quantize wrote; use d4c.load for a float one, "
                "or export it with --float32."
            )
