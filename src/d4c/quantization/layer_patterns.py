"""Patterns over names of layers: shell wildcards, since regular expressions of strangers can run for ever.

image.blocks.0.*            everything in a block; a star stands for any characters, dots included
image.blocks.?.mlp.fc[12]   one character; one of these characters
text.blocks.{0,11}.attn.q   one of these words
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import product

from d4c.errors import SettingError
from d4c.reading.schema import shown

LONGEST = 1000
MOST_NAMES = 1000
"""Combinations of words in braces."""

_ALLOWED = re.compile(r"[\w.*?\[\]!{},-]*", re.ASCII)


def matches(pattern: str, layer: str) -> bool:
    """Whether a pattern stands for the whole name of a layer; raises SettingError for one that is not valid."""
    return any(fnmatchcase(layer, alternative) for alternative in alternatives(pattern))


def matches_any(patterns: Iterable[str], layer: str) -> bool:
    """Whether one of several patterns stands for the whole name of a layer."""
    return any(matches(pattern, layer) for pattern in patterns)


@lru_cache(maxsize=4096)
def alternatives(pattern: str) -> tuple[str, ...]:
    """Return the patterns without braces that a pattern stands for.

    Raises:
        SettingError: It is too long, has characters that no name of a layer has, or braces that do not fit together.
    """
    if len(pattern) > LONGEST:
        raise SettingError(
            f"The override {shown(pattern)} has {len(pattern)} characters, expected at most {LONGEST}; shorten it."
        )
    allowed = _ALLOWED.match(pattern)
    if allowed is None or allowed.end() < len(pattern):
        wrong = pattern[allowed.end() if allowed else 0]
        raise SettingError(
            f"The override {shown(pattern)} holds {shown(wrong)}, expected the name of a layer with shell wildcards "
            "(*, ?, [12] or {a,b}), not a regular expression; write 'image.blocks.0.*' for all of a block."
        )
    parts = re.split(r"\{([^{}]*)\}", pattern)
    words = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
    count = 1
    for choice in words:
        count *= len(choice)
    if count > MOST_NAMES or any("{" in part or "}" in part for part in parts):
        raise SettingError(
            f"The override {shown(pattern)} has braces that do not close, lie in one another or stand for {count} "
            f"names, expected at most {MOST_NAMES}; write several overrides."
        )
    return tuple("".join(choice) for choice in product(*words))
