"""Downloads models from the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from d4c.errors import CheckpointError, reason_of

_CONFIGS = [
    "config.json",
    "open_clip_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
]


def download(repo: str, layouts: Sequence[tuple[str, Sequence[str]]]) -> Path:
    """Download the configuration of a model and one set of its weights.

    Args:
        repo: Id of the repository, "org/name" or "org/name@revision".
        layouts: Pairs of a configuration file and the weights files that may go with it, the preferred ones first. Only
            the first pair that the repository has is downloaded.

    Returns:
        The local folder with the files.

    Raises:
        CheckpointError: The repository cannot be reached or has no such pair.
    """

    def fetch(patterns: Sequence[str]) -> Path:
        return download_files(repo, patterns)

    folder = fetch(_CONFIGS)
    for config, weights in layouts:
        if not (folder / config).is_file():
            continue
        for file in weights:
            # model.safetensors.index.json belongs to model-00001-of-00002.safetensors and so on.
            shards = [file.removesuffix(".index.json").replace(".", "-*.")] if file.endswith(".index.json") else []
            if (fetch([file, *shards]) / file).is_file():
                return folder
    raise CheckpointError(
        f"'hf-hub:{repo}' has no open_clip_config.json or config.json with weights that go with it; "
        "use the id of a CLIP."
    )


def download_tokenizer(repo: str) -> Path:
    """Download the tokenizer of a repository "org/name" and return its folder; raises CheckpointError if it cannot."""
    return download_files(repo, ["tokenizer.json", "tokenizer_config.json"])


def download_files(repo: str, patterns: Sequence[str]) -> Path:
    """Download the files of a repository "org/name" or "org/name@revision" that match patterns; return their folder.

    Raises:
        CheckpointError: The repository cannot be reached.
    """
    from huggingface_hub import snapshot_download

    name, _, revision = repo.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=list(patterns)))
    except Exception as error:
        raise CheckpointError(
            f"'hf-hub:{repo}' cannot be downloaded ({reason_of(error)}); "
            "check the id and the connection, or pass a local folder."
        ) from None
