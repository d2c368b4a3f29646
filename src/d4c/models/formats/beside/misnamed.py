"""What to write instead of a source that is almost right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import nn

from d4c.errors import CheckpointError
from d4c.models.clip import CLIP

OPENAI_NAME = re.compile(r"ViT-[BL]/\d\d(@336px)?")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")
HUB_ADDRESS = re.compile(r"https?://(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)")


def missing(text: str) -> CheckpointError:
    """Return the error for a name that is no file and no folder, with the call that may have been meant."""
    intro = f"{text} is not an existing file or folder"
    if OPENAI_NAME.fullmatch(text):
        name = text.replace("/", "-").replace("@336px", "-336")
        return CheckpointError(
            f"{intro}; for OpenAI's weights use the open_clip name {name!r} with pretrained='openai' "
            f"(--model {name} --pretrained openai)."
        )
    if address := HUB_ADDRESS.match(text):
        return CheckpointError(f"{intro}; for a model of the Hugging Face Hub use 'hf-hub:{address[1]}'.")
    if HUB_ID.fullmatch(text) and not Path(text).parent.exists():
        return CheckpointError(f"{intro}; check the path, or for a model of the Hugging Face Hub use 'hf-hub:{text}'.")
    return CheckpointError(f"{intro}; check the path, or use a name such as 'demo-vit' or 'hf-hub:org/name'.")


def not_a_source(value: Any) -> CheckpointError:
    """Return the error for an object that is no name, path or state dict."""
    kind = type(value).__name__
    if isinstance(value, CLIP):
        return CheckpointError(f"The {kind} {value.name!r} is loaded already, expected a source; use it as it is.")
    if isinstance(value, nn.Module) and hasattr(value, "save_pretrained"):
        return CheckpointError(
            f"The source is an object of class {kind}, expected a name, a path or a state dict; call save_pretrained "
            "of it and of its processor with one folder, and load that folder."
        )
    if isinstance(value, nn.Module):
        return CheckpointError(
            f"The source is an object of class {kind}, expected a name, a path or a state dict; pass its state_dict(), "
            "with activation and heads unless they are OpenAI's."
        )
    return CheckpointError(
        f"The source is an object of class {kind}, expected a name, a path or a state dict; pass one of these."
    )


def wrong_folder(folder: Path, source: str) -> CheckpointError:
    """Return the error for a folder without a float CLIP, which may hold something else of use."""
    if (folder / "export.json").is_file():
        return CheckpointError(
            f"{source} is an export, expected a float model; use d4c.load_quantized({source!r}, runtime='onnxruntime')."
        )
    if (folder / "artifact").is_dir():
        return CheckpointError(f"{source} is the folder of a run, expected a model; use {folder / 'artifact'}.")
    if (folder / "adapter_config.json").is_file():
        return CheckpointError(
            f"{source} holds an adapter such as LoRA without the model that it belongs to; merge it with PEFT's "
            "merge_and_unload, save the result and load that folder."
        )
    return CheckpointError(
        f"{source} is a folder without a CLIP, expected open_clip_config.json with open_clip_model.safetensors "
        "or config.json with model.safetensors (or their .bin forms); use a folder that holds such a pair."
    )
