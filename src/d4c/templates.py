"""Putting a class name into a prompt template."""

from __future__ import annotations

import re


def fill_template(template: str, name: str) -> str:
    """A template with a name in place of "{}", "an" standing for an "a" that comes to stand before a vowel."""
    if name[:1].lower() in tuple("aeiou"):
        template = re.sub(r"\b([aA])(?= \{\})", r"\1n", template)
    return template.replace("{}", name)
