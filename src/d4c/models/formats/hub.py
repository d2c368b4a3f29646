"""Models on the Hugging Face hub, by `hf-hub:org/name` ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from d4c.errors import CheckpointError

_CONFIGS = ["config.json", "open_clip_config.json", "preprocessor_config.json"]


def download(repo: str, layouts: Sequence[tuple[str, Sequence[str]]]) -> Path:
    """Local folder of a repository with its configuration and one set of weights.

    `layouts` are pairs of a configuration file and weights files that may go with it, the preferred first; the first
    that the repository has is all that is downloaded. "@revision" behind the id picks a revision. Raises
    CheckpointError if the repository cannot be reached or has no such pair.
    """
    from huggingface_hub import snapshot_download

    name, _, revision = repo.partition("@")

    def fetch(patterns: Sequence[str]) -> Path:
        try:
            return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(patterns)))
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise CheckpointError(
                f"'hf-hub:{repo}' cannot be downloaded ({reason}); "
                "check the id and the connection, or pass a local folder."
            ) from None

    folder = fetch(_CONFIGS)
    for config, weights in layouts:
        if not (folder / config).is_file():
            continue
        for file in weights:
            # model.safetensors.index.json goes with model-00001-of-00002.safetensors and so on.
            shards = [file.removesuffix(".index.json").replace(".", "-*.")] if file.endswith(".index.json") else []
            if (fetch([file, *shards]) / file).is_file():
                return folder
    raise CheckpointError(
        f"'hf-hub:{repo}' has no open_clip_config.json or config.json with weights beside it; use the id of a CLIP."
    )
