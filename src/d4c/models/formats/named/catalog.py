"""Finds models in open_clip's catalog and downloads their weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d4c.errors import CheckpointError, reason_of
from d4c.models.config import CLIPConfig
from d4c.models.formats.beside.own_tokenizer import TokenizerFiles
from d4c.models.formats.named.hub import download_tokenizer
from d4c.models.formats.openclip import openclip_config, openclip_tokenizer


def named_pretrained(name: str, pretrained: str | None) -> tuple[CLIPConfig, Path, TokenizerFiles | None]:
    """Find a model in open_clip's catalog and download its weights if they are not local.

    Args:
        name: Name of an architecture such as "ViT-B-32".
        pretrained: A tag such as "openai" or a local weights file.

    Returns:
        The configuration, the weights file, and the files of a tokenizer of its own.

    Raises:
        CheckpointError: open_clip cannot be imported, does not have the model or the weights, or cannot download them.
    """
    try:
        import open_clip
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "open_clip"
        cause = "is not installed" if missing else f"fails to import ({type(error).__name__}: {reason_of(error)})"
        advice = "install d4c[open-clip]" if missing else "repair that installation"
        raise CheckpointError(
            f"{name!r} is not an existing file or folder, and as an open_clip name it needs open_clip, which {cause}; "
            f"{advice}, or use an 'hf-hub:org/name' id."
        ) from error
    model = open_clip.get_model_config(name)
    if model is None:
        raise CheckpointError(
            f"{name!r} is neither an existing file or folder nor a model of open_clip; check the path, or use "
            "'demo-vit', 'demo-rn', an open_clip name such as 'ViT-B-32' or an 'hf-hub:org/name' id."
        )
    local = pretrained is not None and Path(pretrained).is_file()
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None or not (local or pretrained in tags):
        choices = f"one of {', '.join(tags)}, or a file" if tags else "a file"
        raise CheckpointError(f"{name!r} has no weights for pretrained={pretrained!r}; use {choices}.")
    pixels = {} if local else open_clip.get_pretrained_cfg(name, pretrained)
    config = openclip_config(model, pixels, name, bool(pixels.get("quick_gelu")))
    prompts = catalog_tokenizer(model["text_cfg"], Path(str(pretrained)).parent if local else None, name)
    if local:
        return config, Path(str(pretrained)), prompts
    try:
        return config, Path(open_clip.download_pretrained(pixels)), prompts
    except Exception as error:
        raise CheckpointError(
            f"The weights {pretrained!r} of {name!r} cannot be downloaded ({reason_of(error)}); "
            "check the connection, or pass a local file as pretrained."
        ) from None


def catalog_tokenizer(text: Mapping[str, Any], beside: Path | None, source: str) -> TokenizerFiles | None:
    """Return the files of the tokenizer that a `text_cfg` names, downloaded unless they are beside local weights."""
    repo = text.get("hf_tokenizer_name")
    if not repo:
        return None
    local = beside is not None and (beside / "tokenizer.json").is_file()
    folder = beside if local and beside is not None else download_tokenizer(str(repo))
    return openclip_tokenizer(text, folder, source)
