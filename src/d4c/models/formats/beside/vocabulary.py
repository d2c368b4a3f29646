"""Compares the tokenizer that a checkpoint brings with CLIP's, which d4c has built in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from d4c.models.inputs.tokenizer import tokenizer

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


def other_tokenizer(folder: Path, read: Read) -> str | None:
    """Return in what the tokenizer of a folder is not CLIP's, with the name of the file; None if it is.

    The files are compared as data, without running the tokenizer.

    Args:
        folder: Folder of the model, which may have tokenizer.json, or vocab.json and merges.txt, or none of them.
        read: Reads a JSON object from a file.
    """
    return next(_differences(folder, read), None)


def _differences(folder: Path, read: Read) -> Iterator[str]:
    whole, words, pairs = (folder / name for name in ("tokenizer.json", "vocab.json", "merges.txt"))
    if whole.is_file():
        yield from (f"{what} in {whole.name}" for what in _tokenizer_differences(read(whole)))
    elif words.is_file():
        yield from (f"{what} in {words.name}" for what in _vocabulary_differences(read(words)))
    else:
        yield from (f"a vocabulary of another kind in {name}" for name in OTHER_FILES if (folder / name).is_file())
    if pairs.is_file() and not whole.is_file():
        lines = [line for line in pairs.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
        if [tuple(line.split()) for line in lines if not line.startswith("#version")] != clip_merges():
            yield f"merges of its own in {pairs.name}"
    settings = folder / "tokenizer_config.json"
    if settings.is_file() and read(settings).get("do_lower_case") is False:
        yield f"do_lower_case = False in {settings.name}"


def _tokenizer_differences(data: dict[str, Any]) -> Iterator[str]:
    model = data.get("model")
    model = model if isinstance(model, dict) else {}
    yield from _vocabulary_differences(model.get("vocab"))
    merges = model.get("merges")
    pairs = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in merges or [] if pair]
    if pairs != clip_merges():
        yield "merges of its own"
    normalizer = data.get("normalizer")
    parts = normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []
    if parts and not any(
        isinstance(part, dict) and part.get("type") in ("Lowercase", "BertNormalizer") for part in parts
    ):
        yield "a normalizer that keeps upper case"
    for token in data.get("added_tokens") or []:
        if not isinstance(token, dict) or clip_vocabulary().get(str(token.get("content"))) != token.get("id"):
            yield f"the added token {token.get('content') if isinstance(token, dict) else token!r}"


def _vocabulary_differences(words: Any) -> Iterator[str]:
    if words != clip_vocabulary():
        count = len(words) if isinstance(words, dict | list) else 0
        yield f"a vocabulary of its own, of {count} tokens"
