"""Compares the tokenizer that a checkpoint brings with CLIP's, which is the one that d4c uses."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from d4c.errors import CheckpointError
from d4c.models.tokenizer import tokenizer

OTHER_FILES = ("vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
"""Vocabularies of other kinds: WordPiece and SentencePiece."""

Read = Callable[[Path], dict[str, Any]]


@lru_cache(maxsize=1)
def clip_vocabulary() -> dict[str, int]:
    """Return the ids of CLIP's tokens."""
    return tokenizer().get_vocab()


@lru_cache(maxsize=1)
def clip_merges() -> list[tuple[str, str]]:
    """Return CLIP's merges in their order."""
    return [(str(left), str(right)) for left, right in json.loads(tokenizer().to_str())["model"]["merges"]]


def refuse_other_tokenizer(folder: Path, read: Read, source: str) -> None:
    """Raise CheckpointError if a folder brings a tokenizer that is not CLIP's.

    The files are compared as data: a tokenizer is a program, and none of an unknown origin is run.

    Args:
        folder: Folder of the model, which may have tokenizer.json, or vocab.json and merges.txt, or none of them.
        read: Reads a JSON object from a file.
        source: Names the model in error messages.
    """
    whole, words, pairs = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    if whole.is_file():
        _check_tokenizer(read(whole), whole, source)
    elif words.is_file():
        _check_vocabulary(read(words), words, source)
    else:
        for name in OTHER_FILES:
            if (folder / name).is_file():
                raise _other(source, folder / name, "a vocabulary of another kind")
    if pairs.is_file() and not whole.is_file():
        lines = [line for line in pairs.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
        if [tuple(line.split()) for line in lines if not line.startswith("#version")] != clip_merges():
            raise _other(source, pairs, "merges of its own")
    settings = folder / "tokenizer_config.json"
    if settings.is_file() and read(settings).get("do_lower_case") is False:
        raise _other(source, settings, "do_lower_case = False")


def _check_tokenizer(data: dict[str, Any], file: Path, source: str) -> None:
    model = data.get("model")
    model = model if isinstance(model, dict) else {}
    _check_vocabulary(model.get("vocab"), file, source)
    merges = model.get("merges")
    pairs = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in merges or [] if pair]
    if pairs != clip_merges():
        raise _other(source, file, "merges of its own")
    normalizer = data.get("normalizer")
    parts = normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []
    if parts and not any(
        isinstance(part, dict) and part.get("type") in ("Lowercase", "BertNormalizer") for part in parts
    ):
        raise _other(source, file, "a normalizer that keeps upper case")
    for token in data.get("added_tokens") or []:
        if not isinstance(token, dict) or clip_vocabulary().get(str(token.get("content"))) != token.get("id"):
            raise _other(
                source, file, f"the added token {token.get('content') if isinstance(token, dict) else token!r}"
            )


def _check_vocabulary(words: Any, file: Path, source: str) -> None:
    if words == clip_vocabulary():
        return
    count = len(words) if isinstance(words, dict) else 0
    raise _other(source, file, f"a vocabulary of its own, of {count} tokens")


def _other(source: str, file: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{source} brings {what} in {file.name}, expected CLIP's tokenizer, the only one that is supported; "
        "use a CLIP with OpenAI's vocabulary."
    )
