"""Prompt templates, and putting a class name into one."""

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
    """A template with a name in place of "{}", "an" standing for an "a" that comes to stand before a vowel."""
    if name[:1].lower() in tuple("aeiou"):
        template = re.sub(r"\b([aA])(?= \{\})", r"\1n", template)
    return template.replace("{}", name)
