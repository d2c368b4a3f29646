"""Prompt templates, and how a class name is put into one."""

from __future__ import annotations

import re

PHOTO_TEMPLATES = (
    "a photo of a {}.",
    "a picture of a {}.",
    "a {}",
    "a good photo of a {}.",
    "itap of a {}.",
    "a photo of the {}.",
    "a close-up photo of a {}.",
)
EMOJI_TEMPLATES = ("an emoji of a {}.", "a drawing of a {}.", "a {} icon", "a cartoon {}.")


def fill_template(template: str, name: str) -> str:
    """Replace "{}" in a template with a name; an "a" before it becomes "an" if the name begins with a vowel."""
    if name[:1].lower() in tuple("aeiou"):
        template = re.sub(r"\b([aA])(?= \{\})", r"\1n", template)
    return template.replace("{}", name)
