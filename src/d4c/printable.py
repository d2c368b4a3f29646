"""Text from files and their names, made fit for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return one line of text with control characters, and bytes that are not text, replaced.

    A name may hold escape sequences that recolor the terminal or retitle it, line breaks, or marks that turn the
    direction of writing around.
    """
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
