"""Resolves the prompts that images are made for, and makes those that calibrate the text tower."""

from __future__ import annotations

import random
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

from d4c.errors import DataError, reason_of
from d4c.models.clip import CLIP
from d4c.reading.json_file import parse_json
from d4c.storage.files import read_text
from d4c.templates import check_template, fill_template

NOUNS = tuple((files("d4c.calibration") / "nouns.txt").read_text(encoding="utf-8").splitlines())
"""d4c's list of 180 nouns: concrete, everyday, singular, and varied as the subjects of photographs are."""

TEMPLATE = "a photo of a {}."
CALIBRATION_TEMPLATES = (
    "a photo of a {}.",
    "a blurry picture of a {}.",
    "the {} up close.",
    "a {} in bright sunlight",
    "an old black and white photo of a {}.",
    "a pencil sketch of the {}.",
    "a small {} on a white background.",
    "someone took a picture of a {} at night.",
    "two people looking at a {}.",
    "a painting of a {} in many colours.",
    "{}",
    "my favourite {}!",
)


def is_prompt(entry: str) -> bool:
    """Whether an entry of a list is a whole prompt rather than a name: it ends in a period or has an article."""
    words = entry.lower().split()
    return entry.rstrip().endswith(".") or "a" in words or "an" in words or words[:1] == ["the"]


def resolve_prompts(prompts: Sequence[str] | str | Path | None) -> tuple[str, ...]:
    """Turn names, prompts or a file of them into distinct prompts.

    Args:
        prompts: A list of names ("tabby cat"), which go into `TEMPLATE`, and whole prompts ("a drawing of a cat."); or
            the path of a .txt file with one of these per line; or the path of a .json file with
            {"classnames": [...], "templates": [...]}, whose templates have {} or {c} for the name and are combined with
            every name. None means d4c's 180 nouns.

    Returns:
        The prompts in their order; of equal ones only the first.

    Raises:
        DataError: There is no prompt, or the file or list cannot be used.
    """
    if prompts is None:
        return tuple(fill_template(TEMPLATE, name) for name in NOUNS)
    if isinstance(prompts, str | Path):
        path = Path(prompts)
        try:
            text = read_text(path)
        except (OSError, ValueError) as error:  # other encodings, a zero byte in the path
            raise DataError(
                f"The prompts {str(path)!r} cannot be read as a text file ({reason_of(error)}); "
                "give a .txt or .json file or a list of strings."
            ) from None
        resolved = from_json(text, path) if path.suffix == ".json" else from_entries(text.splitlines())
    else:
        resolved = from_entries(prompts)
    if not resolved:
        raise DataError("The list of prompts is empty, expected at least one; give a name such as 'cat'.")
    return tuple(dict.fromkeys(resolved))


def from_entries(entries: Sequence[str]) -> list[str]:
    """Turn names and whole prompts into prompts; raise DataError for entries that are not strings."""
    for entry in entries:
        if not isinstance(entry, str):
            raise DataError(f"A prompt is {type(entry).__name__}, expected a string; pass a list of strings.")
    stripped = [entry.strip() for entry in entries if entry.strip()]
    return [entry if is_prompt(entry) else fill_template(TEMPLATE, entry) for entry in stripped]


def from_json(text: str, path: Path) -> list[str]:
    """Combine the class names and templates of a JSON file, whose path is for error messages."""
    data: Any = parse_json(text, str(path), DataError, "give valid JSON or a .txt file")
    names = data.get("classnames") if isinstance(data, dict) else None
    templates = data.get("templates", [TEMPLATE]) if isinstance(data, dict) else None
    if not (is_strings(names) and is_strings(templates)):
        raise DataError(
            f'{path} is not of the form {{"classnames": [strings], "templates": [strings]}}; write it like this.'
        )
    plain = [template.replace("{c}", "{}") for template in templates]
    for template in plain:
        check_template(template)
    return [fill_template(template, name.strip()) for name in names if name.strip() for template in plain]


def is_strings(value: Any) -> TypeGuard[list[str]]:
    """Whether a value is a list of strings."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def generic_prompts(count: int, seed: int = 0) -> tuple[str, ...]:
    """Make distinct prompts to calibrate a text tower with, from 180 nouns and 12 templates.

    Each noun comes floor or ceil of count / 180 times, each time in another template, and templates are used equally
    often. The same count and seed give the same prompts everywhere.

    Args:
        count: Number of prompts.
        seed: Seed of the order of the nouns.

    Returns:
        The prompts.

    Raises:
        DataError: The count is below 1 or above the number of combinations.
    """
    combinations = len(NOUNS) * len(CALIBRATION_TEMPLATES)
    if not 1 <= count <= combinations:
        raise DataError(
            f"{count} generic prompts are requested, expected 1 to {combinations}; choose a number in this range."
        )
    names = random.Random(seed).sample(NOUNS, len(NOUNS))
    prompts = []
    for i in range(count):
        turn, noun = divmod(i, len(NOUNS))
        prompts.append(fill_template(CALIBRATION_TEMPLATES[(noun + turn) % len(CALIBRATION_TEMPLATES)], names[noun]))
    return tuple(prompts)


def check_length(clip: CLIP, prompts: Sequence[str]) -> None:
    """Raise DataError for a prompt that the tokenizer would cut, since its image would be made for other words."""
    tokenizer = clip.prompt_tokenizer()
    for prompt, count in zip(prompts, tokenizer.word_counts(prompts), strict=True):
        if count > tokenizer.most_words:
            raise DataError(
                f"The prompt {prompt[:40] + '...'!r} has {count} tokens, expected at most {tokenizer.most_words}; "
                "shorten it."
            )


@torch.no_grad()
def prompt_features(clip: CLIP, prompts: Sequence[str], batch: int = 256) -> Tensor:
    """Embed prompts and scale their embeddings to unit length.

    Args:
        clip: The model.
        prompts: P prompts.
        batch: Number of prompts that go through the text tower at once.

    Returns:
        Unit embeddings [P, D] on the model's device.

    Raises:
        DataError: The tokenizer would cut a prompt.
    """
    check_length(clip, prompts)
    parts = [clip.encode_text(part.to(clip.device)).float() for part in clip.tokenize(prompts).split(batch)]
    return F.normalize(torch.cat(parts), dim=-1)
